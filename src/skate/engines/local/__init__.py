"""The embedded engine: worker processes forked by a zygote, and memory that they share."""
