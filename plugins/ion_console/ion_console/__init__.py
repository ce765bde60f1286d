"""The console of Ion: health, metrics and an API."""
