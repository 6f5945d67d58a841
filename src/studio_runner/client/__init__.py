"""The front end: package, submit, follow, stop, fetch."""
