"""Starting, watching, limiting and ending processes, and carrying their output."""
