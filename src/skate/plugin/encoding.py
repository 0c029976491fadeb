"""Values as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python


def encode(value: Any) -> bytes:
    """JSON of whatever Pydantic can write: models, dataclasses, dates, bytes (base64); NaN is null.

    Half a surrogate pair, which UTF-8 has not, becomes a question mark. Raises TypeError for what has no JSON.
    """
    try:
        return to_json(value, bytes_mode="base64", inf_nan_mode="null")
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        if "surrogates" in str(error):
            return to_json(_whole(value), bytes_mode="base64", inf_nan_mode="null")
        raise TypeError(f"{type(value).__name__} cannot be sent as JSON: {error}") from None


def _whole(value: Any) -> Any:
    """The same, with all of its text in whole characters."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, BaseModel):
        return _whole(value.model_dump())
    if isinstance(value, Mapping):
        return {_whole(name): _whole(each) for name, each in value.items()}
    return [_whole(each) for each in value] if isinstance(value, list | tuple | set | frozenset) else value


def plain(value: Any) -> Any:
    """A value as JSON would bring it back: models as dictionaries. Raises ValueError for what has no JSON."""
    if value is None or type(value) in (str, int, bool):
        return value
    return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="null", serialize_unknown=False)
