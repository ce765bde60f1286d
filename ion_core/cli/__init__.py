"""The command line. Nothing is imported here that not every command needs; commands import what they need."""

from ion_core.cli.entry import main

__all__ = ["main"]
