"""Containers by the OCI runtime itself as a container runtime of Ion."""
