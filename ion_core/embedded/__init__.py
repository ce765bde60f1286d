"""The embedded providers: what Ion runs on with nothing but Python. Plugins like any other."""
