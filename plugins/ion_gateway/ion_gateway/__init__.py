"""Events that come in by themselves."""
