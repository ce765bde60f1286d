"""The command line. Nothing is imported here but click and what ``--help`` shows; commands import what they need."""

from ion_core.cli.entry import main

__all__ = ["main"]
