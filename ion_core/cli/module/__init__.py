"""Modules: listed, made, run once, recorded, tested, and looked into."""
