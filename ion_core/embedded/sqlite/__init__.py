"""Messages and documents, each in one SQLite file for all processes of a machine."""
