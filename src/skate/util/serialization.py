"""Serializers for classes that cannot be pickled as they are, under the name that Ray gives their module."""

from skate.util import deregister_serializer, register_serializer

__all__ = ["deregister_serializer", "register_serializer"]
