"""Values as JSON."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python


def encode(value: Any) -> bytes:
    """JSON of whatever Pydantic can write: models, dataclasses, dates, bytes (base64); NaN is null.

    Raises TypeError for what has no JSON.
    """
    try:
        return to_json(value, bytes_mode="base64", inf_nan_mode="null")
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        try:  # text with lone surrogates, which UTF-8 has not
            return json.dumps(value).encode()
        except (TypeError, ValueError):
            raise TypeError(f"{type(value).__name__} cannot be sent as JSON: {error}") from None


def plain(value: Any) -> Any:
    """A value as JSON would bring it back: models as dictionaries."""
    if value is None or type(value) in (str, int, bool):
        return value
    return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="null", serialize_unknown=False)
