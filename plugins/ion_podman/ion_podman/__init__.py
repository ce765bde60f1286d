"""Podman as a container runtime of Ion."""
