"""Reference providers in memory: small enough to read, held to the same kit as the real ones. For tests."""
