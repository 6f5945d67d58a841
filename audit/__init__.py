"""What this project takes from others, and what it must not give away: `make audit`.

docs/how-to/audit.md says what is looked at, and how to answer a finding.
"""
