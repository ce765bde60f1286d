"""Folders that are watched: what is in them, when it is complete, what was published of it."""
