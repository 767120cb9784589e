"""Style transfer: by search, and by a network that has learned a style."""
