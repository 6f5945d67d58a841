"""Fuzzing: hostile input for everything that reads what others wrote. How to use it: docs/how-to/fuzz.md."""
