"""One module per target: what it is given, what may come of it, and what must hold."""
