"""The StudioML interchange format as pure data: no I/O, nothing of this machine."""
