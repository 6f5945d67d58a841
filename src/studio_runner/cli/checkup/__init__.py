"""What `studio-runner doctor` looks at, one module per subject; each check yields findings."""
