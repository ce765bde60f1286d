"""Developing modules by hand: files and documents in a directory that people and scripts read, no providers."""
