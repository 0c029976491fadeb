"""Filters: ``(column, "=" or "!=", value)``, all of which a row must pass."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from skate.util.state.common import StateSchema
from skate.util.state.exception import RayStateApiException

Filter = tuple[str, str, Any]
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def checked(filters: Sequence[Any] | None) -> list[Filter]:
    """The filters in good form; ValueError for what is none."""
    found: list[Filter] = []
    for given in filters or ():
        if not isinstance(given, tuple | list) or len(given) != 3 or not isinstance(given[0], str):
            raise ValueError(f'A filter is a tuple ("column", "=" or "!=", value), not {given!r}.')
        column, predicate, value = given
        if predicate not in ("=", "!="):
            raise ValueError(f"{predicate!r} is no predicate of filters: there are '=' and '!='.")
        found.append((column.lower(), predicate, value))
    return found


def contradict(filters: Sequence[Filter]) -> bool:
    """Whether two filters ask that one column have two values, which no row can; warns if so."""
    wanted: dict[str, Any] = {}
    for column, predicate, value in filters:
        if predicate == "=" and wanted.setdefault(column, value) != value:
            text = f"filters ask that {column!r} be {wanted[column]!r} and {value!r}: no row can be both"
            warnings.warn(text, UserWarning, stacklevel=4)
            return True
    return False


def typed(filters: Sequence[Filter], schema: type[StateSchema]) -> list[Filter]:
    """The filters with values of their columns' types; RayStateApiException for what does not fit."""
    types = {field.name: str(field.type) for field in dataclasses.fields(schema)}
    known = schema.filterable_columns()
    found = []
    for column, predicate, value in filters:
        if column not in known:
            names = ", ".join(name for name in types if name in known)
            raise RayStateApiException(f"{schema.__name__} has no column {column!r} to filter by: there are {names}.")
        found.append((column, predicate, _as(types[column], column, value)))
    return found


def _as(kind: str, column: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if kind.startswith("int"):
        try:
            return int(value)
        except ValueError:
            raise RayStateApiException(f"The column {column!r} holds integers, which {value!r} is not.") from None
    if kind.startswith("bool"):
        if value.lower() not in _TRUTH:
            raise RayStateApiException(f"The column {column!r} holds True or False, which {value!r} is not.")
        return _TRUTH[value.lower()]
    return value


def passes(row: Mapping[str, Any], filters: Sequence[Filter]) -> bool:
    """Whether a row passes all filters; strings are compared without regard to case."""
    for column, predicate, value in filters:
        found = row.get(column)
        if isinstance(found, str) and isinstance(value, str):
            found, value = found.lower(), value.lower()
        if (found == value) != (predicate == "="):
            return False
    return True
