"""Private modules of Ray's training library that others import."""
