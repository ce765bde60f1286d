"""What is installed: plugins, and which version."""
