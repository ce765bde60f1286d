"""Files in a directory of this machine: the embedded blob store."""
