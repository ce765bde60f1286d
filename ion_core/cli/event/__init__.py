"""Events on their way: published, waiting in queues, kept as dead letters."""
