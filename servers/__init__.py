"""Real servers on loopback, for tests, benchmarks and the fault suite: free ports, own directories, a clean end."""
