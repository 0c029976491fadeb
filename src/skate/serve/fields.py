"""Typed fields for configurations: values that are checked when an object is made, and errors that name the place.

What is wrong raises `SchemaError`, whose text begins with the field, as in
``applications[0].deployments[1].num_replicas``; an unknown field is refused with the name that comes nearest.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from copy import deepcopy
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, dataclass_transform, get_args, get_origin, get_type_hints

import msgspec


class SchemaError(ValueError):
    """A configuration that cannot be used; the message begins with the field."""

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.problem = problem
        self.field = field

    def under(self, name: str) -> SchemaError:
        """The same for the object around."""
        joint = "." if self.field and not self.field.startswith("[") else ""
        return SchemaError(self.problem, f"{name}{joint}{self.field}")


@dataclass_transform(kw_only_default=True)
class Schema:
    """Fields with types and defaults, given by keyword; which of them were given is in `model_fields_set`."""

    _hints: ClassVar[dict[str, Any]]
    _only_in_ray: ClassVar[frozenset[str]] = frozenset()
    """Fields that Ray has and Skate does not."""

    def __init_subclass__(cls) -> None:
        cls._hints = {}

    @classmethod
    def _fields(cls) -> dict[str, Any]:
        if not cls._hints:
            hints = get_type_hints(cls)
            cls._hints = {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}
        return cls._hints

    def __init__(self, **given: Any) -> None:
        fields = self._fields()
        for name in given:
            if name not in fields:
                raise SchemaError(self._unknown(name), name)
        for name, hint in fields.items():
            if name in given:
                try:
                    value = _converted(given[name], hint)
                except SchemaError as error:
                    raise error.under(name) from None
            elif hasattr(type(self), name):
                value = deepcopy(getattr(type(self), name))
            else:
                raise SchemaError("is required", name)
            setattr(self, name, value)
        self.model_fields_set = frozenset(given)
        try:
            self._check()
        except SchemaError:
            raise
        except (ValueError, TypeError) as error:
            raise SchemaError(str(error)) from None

    def __hash__(self) -> int:
        return hash(repr(self))

    @classmethod
    def _unknown(cls, name: str) -> str:
        if name in cls._only_in_ray:
            return "Ray Serve has this field, Skate does not"
        near = difflib.get_close_matches(name, cls._fields(), 1)
        return f"there is no such field; {f'did you mean {near[0]}?' if near else 'there are: '}" + (
            "" if near else ", ".join(cls._fields())
        )

    def _check(self) -> None:
        """Raise ValueError or TypeError for values that do not go together."""

    @classmethod
    def model_validate(cls, given: Any) -> Self:
        """An object from a mapping, such as a file gives. Raises SchemaError."""
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise SchemaError(f"a mapping is wanted, not {_shown(given)}")
        for name in given:
            if not isinstance(name, str):
                raise SchemaError(f"fields have names, and {name!r} is none")
        return cls(**given)

    def model_dump(self, *, exclude_unset: bool = False) -> dict[str, Any]:
        """The fields as plain values; with `exclude_unset` those alone that were given."""
        names = [name for name in self._fields() if name in self.model_fields_set or not exclude_unset]
        return {name: plain(getattr(self, name), exclude_unset) for name in names}

    def given(self) -> dict[str, Any]:
        """The fields that were given, as they are."""
        return {name: getattr(self, name) for name in self._fields() if name in self.model_fields_set}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.model_dump() == self.model_dump()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.given().items())})"


def _converted(value: Any, hint: Any) -> Any:
    """`value` as a field with this type takes it."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return None
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Schema):
            return kind.model_validate(value)
        if get_origin(kind) is list and issubclass(item := get_args(kind)[0], Schema):
            if not isinstance(value, list | tuple):
                raise SchemaError(f"a list is wanted, not {_shown(value)}")
            return [_item(entry, item, place) for place, entry in enumerate(value)]
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        words = [repr(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        if words and isinstance(value, str):
            number = "a number or " if int in kinds else ""
            text = f"{number}{' or '.join(words)} is wanted, not {value!r}"
        raise SchemaError(f"{text[0].lower()}{text[1:]}", path.rstrip("`").removeprefix(".")) from None


def _item(value: Any, kind: type[Schema], place: int) -> Schema:
    try:
        return kind.model_validate(value)
    except SchemaError as error:
        raise error.under(f"[{place}]") from None


def plain(value: Any, exclude_unset: bool) -> Any:
    """A field's value without classes."""
    if isinstance(value, Schema):
        return value.model_dump(exclude_unset=exclude_unset)
    if isinstance(value, list):
        return [plain(item, exclude_unset) for item in value]
    return deepcopy(value)


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!r} ({type(value).__name__})"
