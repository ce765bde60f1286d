"""Ion: chain containerised steps through events."""

__version__ = "0.1.0"
