"""@WHAT@, for Ion."""
