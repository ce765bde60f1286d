"""Modules as plain processes of this machine: the embedded runtime."""
