"""What became of events: flows, logs, and what is old enough to go."""
