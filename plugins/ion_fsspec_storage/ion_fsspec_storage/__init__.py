"""Files and documents of Ion anywhere that fsspec reaches."""
