"""Types for annotations."""

from skate.core.refs import ObjectRef

__all__ = ["ObjectRef"]
