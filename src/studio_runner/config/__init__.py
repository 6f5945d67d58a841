"""Settings: frozen values, read once in a cascade, each remembering where it came from."""
