"""Constants that libraries read."""

DEFAULT_PORT = 6379
REDIS_DEFAULT_PASSWORD = ""
"""Skate has no store with a password."""
ID_SIZE = 28
