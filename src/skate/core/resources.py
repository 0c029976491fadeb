"""Amounts of resources as integers: 1/10000 of a CPU, GPU or custom resource; bytes of memory.

Integers, so that ten times 0.1 is 1 and what is given back is what was taken. ``memory`` and
``object_store_memory`` count bytes, which are not multiplied: a fraction of a byte means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

UNIT = 10_000
BYTES = frozenset({"memory", "object_store_memory"})
"""Resources counted in bytes rather than in 1/10000."""

Resources = tuple[tuple[str, int], ...]
"""Sorted by name, without zeros: equal needs are equal values."""


def to_units(amount: float, name: str = "resource") -> int:
    """An amount as users write it, as an integer.

    Digits after the fourth are cut off, as in Ray. `name` is for the error's text, and for what is
    particular to GPUs and bytes.

    Raises:
        TypeError: not a number.
        ValueError: negative, not finite, above zero but under 0.0001, or 1.5 GPUs.
    """
    if not isinstance(amount, int | float):
        raise TypeError(f"{name} must be a number, not {amount!r} ({type(amount).__name__}).")
    if not math.isfinite(amount):
        raise ValueError(f"{name} must be finite, not {amount}.")
    if amount < 0:
        raise ValueError(f"{name} must not be negative, but is {amount}.")
    if name in ("GPU", "num_gpus") and amount > 1 and amount != int(amount):
        raise ValueError(f"{name} must be a whole number when above 1, but is {amount}.")
    if 0 < amount < 1 / UNIT:
        raise ValueError(f"{name} is {amount}; the smallest amount is {1 / UNIT}.")
    if name in BYTES:
        return int(amount)
    # 0.57 * 10000 is 5699.999999999999, which must not lose its last digit
    return int(amount * UNIT + 1e-6)


def from_amounts(amounts: Mapping[str, float]) -> Resources:
    """Amounts by name as `Resources`; raises as `to_units`."""
    return _sorted((name, to_units(amount, name)) for name, amount in amounts.items())


def as_floats(resources: Iterable[tuple[str, int]]) -> dict[str, float]:
    """The amounts as users write them: ``{"CPU": 0.5, "memory": 1000.0}``."""
    return {name: float(n) if name in BYTES else n / UNIT for name, n in resources}


def check_custom(resources: Mapping[str, float]) -> None:
    """Check what ``resources=`` was given; TypeError or ValueError."""
    for name, amount in resources.items():
        if not isinstance(name, str):
            raise TypeError(f"resources= must have strings for names, not {name!r}.")
        option = _OWN_OPTION.get(name)
        if option:
            raise ValueError(f"resources= must not name {name!r}: use {option} instead.")
        to_units(amount, f"resources[{name!r}]")


_OWN_OPTION = {
    "CPU": "num_cpus=",
    "GPU": "num_gpus=",
    "memory": "memory=",
    "object_store_memory": "object_store_memory= of init()",
}


def task_resources(options: Mapping[str, Any]) -> Resources:
    """What a task with these options takes while it runs: 1 CPU if ``num_cpus`` is not among them.

    ``num_cpus=None`` takes none, as in Ray.
    """
    return _sorted({"CPU": UNIT if "num_cpus" not in options else 0, **_named(options)}.items())


def actor_resources(options: Mapping[str, Any]) -> tuple[Resources, Resources]:
    """What a node must have for the actor to be placed there, and what the actor then holds.

    An actor that names no resource (``memory`` aside) is placed where there is 1 CPU and holds none
    of it. One that names any holds what it names, and 1 CPU unless it says otherwise.
    """
    named = _named(options)
    if named.keys() - BYTES:
        held = _sorted({"CPU": UNIT, **named}.items())
        return held, held
    return _sorted({"CPU": UNIT, **named}.items()), _sorted(named.items())


def _named(options: Mapping[str, Any]) -> dict[str, int]:
    """What the options ask for, zeros too, None left out."""
    asked = {
        "CPU": options.get("num_cpus"),
        "GPU": options.get("num_gpus"),
        "memory": options.get("memory"),
    }
    asked.update(options.get("resources") or {})
    if options.get("accelerator_type"):
        # A trace of the model's own resource, which only nodes with that model have.
        asked[f"accelerator_type:{options['accelerator_type']}"] = 0.001
    return {name: to_units(amount, name) for name, amount in asked.items() if amount is not None}


def _sorted(amounts: Iterable[tuple[str, int]]) -> Resources:
    return tuple(sorted((name, n) for name, n in amounts if n))


def fits(need: Resources, free: Mapping[str, int]) -> bool:
    """Whether `free` has all that is needed."""
    return all(free.get(name, 0) >= n for name, n in need)


def take(need: Resources, free: dict[str, int]) -> None:
    """Subtract; the caller decides whether below zero is all right."""
    for name, n in need:
        free[name] = free.get(name, 0) - n


def give(need: Resources, free: dict[str, int]) -> None:
    """Add back what `take` took."""
    for name, n in need:
        free[name] = free.get(name, 0) + n
