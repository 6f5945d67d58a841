"""Keys on the disk: reading, making, installing and describing their files."""
