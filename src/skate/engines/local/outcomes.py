"""What `get` does with a failed object."""

from __future__ import annotations

from typing import Any, NoReturn

from skate.core.serialization import unpack
from skate.exceptions import RayTaskError


def raise_outcome(value: Any) -> NoReturn:
    """Raise the error that a failed object holds, as an instance of its cause's class where there is one."""
    error = unpack(value)
    if isinstance(error, RayTaskError):
        raise error.as_instanceof_cause()
    raise error
