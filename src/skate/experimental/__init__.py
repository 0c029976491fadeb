"""What Ray calls experimental and programs use all the same."""
