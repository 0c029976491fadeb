"""What Ray calls experimental and programs use all the same."""

from skate.experimental.locations import get_local_object_locations, get_object_locations

__all__ = ["get_local_object_locations", "get_object_locations"]
