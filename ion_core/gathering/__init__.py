"""Gathering: when all beneath a scope is done, and what a gatherer is then given."""
