"""What `get` does with a failed object."""

from __future__ import annotations

from typing import Any, NoReturn

from skate.core.serialization import unpack
from skate.engines.execution import as_raised


def raise_outcome(value: Any) -> NoReturn:
    """Raise the error that a failed object holds."""
    # Not by way of a variable: the error's traceback would hold this frame, and the frame the error.
    raise as_raised(unpack(value))
