"""What experiments run in: virtual environments (and, behind the same seam, containers)."""
