"""Container images: where they come from, and the ones that are kept."""
