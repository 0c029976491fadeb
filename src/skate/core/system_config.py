"""Numbers that ``init(_system_config={...})`` or the environment may set, each checked, with its name in the error.

A setting of Ray's is read where Ray reads it: `_system_config` first, then the environment variable ``RAY_<name>``. One
of our own is ``SKATE_<NAME>`` there, and in `_system_config` the same in small letters without the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SystemConfig:
    """What was given.

    Args:
        given: `_system_config`; what is no mapping counts as empty.
        environment: the environment variables.
    """

    def __init__(self, given: Any, environment: Mapping[str, str]) -> None:
        self.given: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        self.environment = environment

    def number(
        self, name: str, least: float, most: float | None, default: float, *, own: bool = False, unit: str = "number"
    ) -> float:
        """A setting; `default` when it was not given, or is empty. ValueError for what is no number in its range."""
        variable = f"SKATE_{name.upper()}" if own else f"RAY_{name}"
        where, value = f"_system_config[{name!r}]", self.given.get(name)
        if value is None:
            where, value = f"the environment variable {variable}", self.environment.get(variable)
        if value is None or value == "":
            return default
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not least <= number < float("inf") or (most is not None and number > most):
            span = f"from {least:g} to {most:g}" if most is not None else f"of at least {least:g}"
            raise ValueError(f"{where} must be a {unit} {span}, not {value!r}")
        return number
