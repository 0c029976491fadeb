"""What the classes of settings have in common: frozen fields, checks that name the field, the methods of Ray's models.

Replicas and the controller read these classes, so they need nothing that is slow to import.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, replace
from typing import Any, Self


class WrongTypeError(TypeError, ValueError):
    """A field of a wrong type. Ray raises a ValueError for these too, so programs may expect either."""


def number(name: str, value: Any, least: float, *, open_end: bool = False, whole: bool = False) -> None:
    """Check that `value` is a number from `least` on (above it, with `open_end`)."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "an integer" if whole else "a number"
        raise WrongTypeError(f"{name} must be {kind}, not {value!r} ({type(value).__name__})")
    if not math.isfinite(value) or value < least or (open_end and value == least):
        raise ValueError(f"{name} must be {'above' if open_end else 'at least'} {least}, not {value!r}")


def check_json(name: str, value: Any) -> None:
    """Check that `value` can be written as JSON."""
    if not isinstance(value, Mapping):
        raise WrongTypeError(f"{name} must be a dict, not {value!r} ({type(value).__name__})")
    try:
        json.dumps(value)
    except TypeError as error:
        raise ValueError(f"{name} must be such that JSON can have it: {error}") from None


def set_field(settings: Any, name: str, value: Any) -> None:
    """Put a value that was checked into frozen settings."""
    object.__setattr__(settings, name, value)


class _FieldNames:
    """The fields by name, asked of the class."""

    def __get__(self, _: object, owner: Any) -> dict[str, Field[Any]]:
        return {entry.name: entry for entry in fields(owner)}


@dataclass(frozen=True)
class Settings:
    """What the classes of settings have in common."""

    model_fields = _FieldNames()

    def _read_numbers(self) -> None:
        """Take text, as environment variables have it, and whole floats for the numbers that they are."""
        for entry in fields(self):
            value, kind = getattr(self, entry.name), str(entry.type)
            if kind.startswith("int") and isinstance(value, float) and value.is_integer():
                set_field(self, entry.name, int(value))
            elif isinstance(value, str) and kind.startswith(("int", "float")):
                try:
                    set_field(self, entry.name, int(value) if kind.startswith("int") else float(value))
                except ValueError:
                    continue  # the check that comes names it

    @classmethod
    def read(cls, given: Any, where: str) -> Self:
        """Settings from a mapping, or as they are. TypeError and ValueError name the field."""
        if isinstance(given, cls):
            return given
        dump = getattr(given, "model_dump", None)
        if dump is not None:
            given = dump(exclude_unset=True)
        if not isinstance(given, Mapping):
            raise WrongTypeError(f"{where} must be a dict or {cls.__name__}, not {given!r} ({type(given).__name__})")
        known = cls.model_fields
        for name in given:
            if name not in known:
                raise ValueError(f"{where} has no field {name!r}; there are: {', '.join(sorted(known))}")
        for name, entry in known.items():
            if name not in given and entry.default is MISSING and entry.default_factory is MISSING:
                raise ValueError(f"{where}.{name} is required")
        return cls(**given)

    @classmethod
    def model_validate(cls, given: Any) -> Self:
        """Settings from a mapping. Raises ValueError."""
        return cls.read(given, cls.__name__)

    def model_dump(self, *, exclude_unset: bool = False, exclude_defaults: bool = False, mode: str = "python") -> Any:
        """The fields as a dict; without those that are as they are by default, where that is asked for."""
        found = asdict(self)
        if exclude_unset or exclude_defaults:
            plain = {entry.name: entry for entry in fields(self)}
            found = {name: value for name, value in found.items() if getattr(self, name) != _default(plain[name])}
        return found

    def dict(self, **options: Any) -> Any:
        """`model_dump` under its old name."""
        return self.model_dump(**options)

    def model_dump_json(self, **options: Any) -> str:
        """The fields as JSON; what JSON does not know as text."""
        return json.dumps(self.model_dump(**options), default=str)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values for some fields, which are checked."""
        return replace(self, **dict(update or {}))


def _default(entry: Field[Any]) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()
