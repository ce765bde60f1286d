"""Kubernetes as an executor of Ion."""
