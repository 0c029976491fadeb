"""The options of tasks, actors and methods: one table, and the checks that read it.

A wrong name or value is refused where it is written, with the classes of error that Ray raises:
ValueError for a bad value, TypeError for a bad type, `UnknownOption` (which is both) for a name
that is no option there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from skate.core.resources import check_custom, to_units

STREAMING = -1
"""``num_returns="streaming"`` as the engines know it."""
DYNAMIC = -2
"""``num_returns="dynamic"`` as the engines know it."""


class UnknownOption(ValueError, TypeError):
    """A name that is not an option there.

    Both, because Ray raises ValueError for tasks and actors, but TypeError for calls of methods.
    """


class _Nowhere:
    def __repr__(self) -> str:
        return "-"


NO: Any = _Nowhere()
"""In place of a default: it is not an option there."""


class Option(NamedTuple):
    """One row of the table: what it may be, and its default for tasks, actors and methods."""

    types: tuple[type | str, ...]
    """Classes; a string names a class of a module above this one."""
    task: Any = NO
    actor: Any = NO
    method: Any = NO
    check: Callable[[str, Any], None] | None = None
    """Raises if a value of the right type is wrong all the same. Never called with None."""


# ---- checks of single values ----


def _amount(name: str, value: float) -> None:
    to_units(value, name)


def _at_least(least: int) -> Callable[[str, Any], None]:
    said = {-1: "-1 (no limit), 0 or a positive integer", 0: "0 or a positive integer"}

    def check(name: str, value: int) -> None:
        if value < least:
            raise ValueError(f"{name} must be {said.get(least, 'a positive integer')}, not {value}.")

    return check


def _limit_or_off(name: str, value: int) -> None:
    if value == 0 or value < -1:
        raise ValueError(f"{name} must be a positive integer, or -1 for no limit, not {value}.")


def _not_zero(name: str, value: int) -> None:
    if value == 0:
        raise ValueError(f"{name} must be a positive integer, or -1 for no limit, not 0.")


def _not_empty(name: str, value: str) -> None:
    if not value:
        raise ValueError(f"{name} must not be empty: leave it out for none.")


def _returns(name: str, value: int | str) -> None:
    if isinstance(value, str):
        if value not in ("streaming", "dynamic"):
            raise TypeError(f"{name} must be an integer, 'streaming' or 'dynamic', not {value!r}.")
    elif value < 0:
        raise ValueError(f"{name} must be 0 or a positive integer, not {value}.")


def _exception_classes(name: str, value: bool | list[Any] | tuple[Any, ...]) -> None:
    if isinstance(value, bool):
        return
    for entry in value:
        if not (isinstance(entry, type) and issubclass(entry, Exception)):
            raise ValueError(f"{name} must be True, False or a list of exception classes; {entry!r} is none.")


def _one_of(*choices: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if isinstance(value, str) and value not in choices:
            raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}.")

    return check


def _transport(name: str, value: str) -> None:
    known = ("OBJECT_STORE", "NIXL", "NCCL", "GLOO")
    if value.upper() not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}.")


def _not_for_tasks(name: str) -> None:
    raise ValueError(f"{name} cannot be set for a task: give it to init().")


def _custom_resources(name: str, value: Mapping[str, float]) -> None:
    check_custom(value)


def _groups(name: str, value: Any) -> None:
    if isinstance(value, list):
        if value:
            raise ValueError(f"{name} must be a dict such as {{'io': 2}}, not {value!r}.")
        return
    for group, size in value.items():
        if not isinstance(group, str) or not isinstance(size, int):
            raise TypeError(f"{name} must map names to integers, not {group!r} to {size!r}.")
        if size < 1:
            raise ValueError(f"{name}[{group!r}] must be at least 1, not {size}.")


# The syntax of labels is that of Kubernetes:
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
_WORD = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL_NAME = re.compile(rf"(?:(?=.{{1,253}}/){_WORD}(?:\.{_WORD})*/)?{_WORD}")
_LABEL_TEST = re.compile(rf"|!?{_WORD}|!?in\({_WORD}(?:, ?{_WORD})*\)")


def check_labels(name: str, value: Mapping[str, str | None]) -> None:
    """Check a label selector that `name` was given; TypeError or ValueError."""
    for label, test in value.items():
        if not isinstance(label, str) or not isinstance(test, str | None):
            raise TypeError(f"{name} must map strings to strings, not {label!r} to {test!r}.")
        if not _LABEL_NAME.fullmatch(label):
            raise ValueError(
                f"{name} has a bad label name {label!r}: up to 63 letters, digits, '-', '_', '.', "
                "the first and last a letter or digit; a prefix such as 'example.com/' may precede."
            )
        if test is not None and not _LABEL_TEST.fullmatch(test):
            raise ValueError(f"{name}[{label!r}] must be 'a', '!a', 'in(a, b)' or '!in(a, b)', not {test!r}.")


def _fallbacks(name: str, value: list[Any]) -> None:
    for entry in value:
        if not isinstance(entry, dict) or entry.keys() != {"label_selector"}:
            raise ValueError(f"{name} takes dicts with one key, 'label_selector', not {entry!r}.")
        selector = entry["label_selector"]
        if not isinstance(selector, dict | None):
            raise ValueError(f"{name} has a label_selector that is no dict: {selector!r}.")
        check_labels(f"{name}'s label_selector", selector or {})


# ---- the table ----

_None = type(None)
_COUNT, _TEXT, _FLAG, _NUMBER = (int, _None), (str, _None), (bool, _None), (float, int, _None)
_DICT = (dict, _None)
_GROUP = (str, _None, "PlacementGroup")
_STRATEGY = (
    str,
    _None,
    "PlacementGroupSchedulingStrategy",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
)

# fmt: off
OPTIONS: dict[str, Option] = {
    # name: types, then the default of a task, of an actor and of a method, then the check
    "num_cpus": Option(_NUMBER, 1, None, NO, _amount),
    "num_gpus": Option(_NUMBER, None, None, NO, _amount),
    "memory": Option(_NUMBER, None, None, NO, _amount),
    "object_store_memory": Option(_COUNT, None, None, NO, _at_least(0)),
    "resources": Option(_DICT, None, None, NO, _custom_resources),
    "accelerator_type": Option(_TEXT, None, None, NO),
    "label_selector": Option(_DICT, None, None, NO, check_labels),
    "fallback_strategy": Option((list, _None), None, None, NO, _fallbacks),
    "scheduling_strategy": Option(_STRATEGY, None, None, NO, _one_of("DEFAULT", "SPREAD")),
    "placement_group": Option(_GROUP, "default", "default", NO, _one_of("default")),
    "placement_group_bundle_index": Option((int,), -1, -1, NO),
    "placement_group_capture_child_tasks": Option(_FLAG, None, None, NO),
    "runtime_env": Option(_DICT, None, None, NO),
    "name": Option(_TEXT, None, None, None),
    "enable_task_events": Option((bool,), True, True, None),
    "_labels": Option(_DICT, None, None, None),

    "num_returns": Option((int, str, _None), None, NO, None, _returns),
    "retry_exceptions": Option((bool, list, tuple), False, NO, None, _exception_classes),
    "_generator_backpressure_num_objects": Option(_COUNT, None, NO, None, _not_zero),
    "_num_objects_per_yield": Option(_COUNT, 1, NO, None, _at_least(1)),
    "max_retries": Option(_COUNT, 3, NO, NO, _at_least(-1)),
    "max_calls": Option(_COUNT, 0, NO, NO, _at_least(0)),
    "priority": Option((int,), 0, NO, NO),  # not in Ray

    "max_task_retries": Option(_COUNT, NO, 0, None, _at_least(-1)),
    "max_restarts": Option(_COUNT, NO, 0, NO, _at_least(-1)),
    "max_concurrency": Option(_COUNT, NO, None, NO, _at_least(0)),
    "max_pending_calls": Option(_COUNT, NO, -1, NO, _at_least(-1)),
    "concurrency_groups": Option((dict, list, _None), NO, None, NO, _groups),
    "namespace": Option(_TEXT, NO, None, NO, _not_empty),
    "lifetime": Option(_TEXT, NO, None, NO, _one_of("detached", "non_detached")),
    "get_if_exists": Option((bool,), NO, False, NO),
    "allow_out_of_order_execution": Option(_FLAG, NO, None, NO),
    "enable_tensor_transport": Option(_FLAG, NO, None, NO),
    "_actor_generator_backpressure_num_objects": Option(_COUNT, NO, None, NO, _limit_or_off),

    "concurrency_group": Option(_TEXT, NO, NO, None),
    "tensor_transport": Option(_TEXT, NO, NO, None, _transport),
}
# fmt: on

TASK_DEFAULTS: dict[str, Any] = {k: o.task for k, o in OPTIONS.items() if o.task is not NO}
ACTOR_DEFAULTS: dict[str, Any] = {k: o.actor for k, o in OPTIONS.items() if o.actor is not NO}
METHOD_DEFAULTS: dict[str, Any] = {k: o.method for k, o in OPTIONS.items() if o.method is not NO}


# ---- the checks ----


def check_task_options(options: Mapping[str, Any], *, again: bool = False, generator: bool | None = None) -> None:
    """Check the options of a remote function.

    Args:
        options: by name, as the user gave them.
        again: they come from ``.options()``, which cannot change all of them.
        generator: whether the function is a generator, where known.

    Raises:
        UnknownOption: a name that is no option of tasks.
        TypeError, ValueError: a value of the wrong type; a wrong value.
    """
    for name, value in options.items():
        _check(name, value, TASK_DEFAULTS, "tasks")
    if options.get("object_store_memory") is not None:
        _not_for_tasks("object_store_memory")
    if again:
        _refuse_again(options, "max_calls", "_num_objects_per_yield")
    check_generator(options.get("num_returns"), generator)
    _check_group_given_once(options)


def check_actor_options(options: Mapping[str, Any], *, again: bool = False) -> None:
    """Check the options of an actor class; arguments and errors as in `check_task_options`."""
    for name, value in options.items():
        _check(name, value, ACTOR_DEFAULTS, "actors")
    if again:
        _refuse_again(options, "concurrency_groups")
    if options.get("get_if_exists") and not options.get("name"):
        raise ValueError("get_if_exists=True needs a name= to look for.")
    if options.get("name") is not None:  # a task's may be empty
        _not_empty("name", options["name"])
    _check_group_given_once(options)


def check_method_options(options: Mapping[str, Any], *, again: bool = False, generator: bool | None = None) -> None:
    """Check the options of a method, or of one call of it (`again`); None: as the actor has it."""
    for name, value in options.items():
        _check(name, value, METHOD_DEFAULTS, "methods", may_be_none=True)
    if again:
        _refuse_again(options, "_num_objects_per_yield")
    check_generator(options.get("num_returns"), generator)


def check_generator(num_returns: Any, generator: bool | None) -> None:
    """ValueError for ``num_returns="streaming"`` on what is known not to be a generator."""
    if generator is False and num_returns in ("streaming", "dynamic"):
        raise ValueError(f"num_returns={num_returns!r} needs a function that yields; this one does not.")


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The options `new` over `old`: each replaces the old one whole, also a dict as ``resources``.

    But an empty ``runtime_env`` leaves the old one, as in Ray.
    """
    merged = {**old, **new}
    if not merged.get("runtime_env") and old.get("runtime_env"):
        merged["runtime_env"] = old["runtime_env"]
    return merged


def _check(name: str, value: Any, known: Mapping[str, Any], of: str, may_be_none: bool = False) -> None:
    if name not in known:
        raise UnknownOption(_no_such_option(name, known, of))
    if value is None and may_be_none:
        return
    option = OPTIONS[name]
    if not _has_type(value, option.types):
        wanted = _in_words(option.types)
        raise TypeError(f"{name} must be {wanted}, not {value!r} ({type(value).__name__}).")
    if option.check is not None and value is not None:
        option.check(name, value)


def _has_type(value: Any, types: tuple[type | str, ...]) -> bool:
    for kind in types:
        if isinstance(kind, str):  # a class of `skate.util`, which this floor must not import
            if any(cls.__name__ == kind for cls in type(value).__mro__):
                return True
        elif isinstance(value, kind):
            return True
    return False


def _in_words(types: tuple[type | str, ...]) -> str:
    names = [k if isinstance(k, str) else "None" if k is _None else k.__name__ for k in types]
    return " or ".join(names)


def _no_such_option(name: str, known: Mapping[str, Any], of: str) -> str:
    near = get_close_matches(name, known, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    if name in OPTIONS:
        hint = f" (it is one of {_home(name)})"
    names = ", ".join(sorted(option for option in known if not option.startswith("_")))
    return f"{name!r} is not an option of {of}{hint}. Valid options: {names}."


def _home(name: str) -> str:
    places = {"tasks": TASK_DEFAULTS, "actors": ACTOR_DEFAULTS, "methods": METHOD_DEFAULTS}
    return " and ".join(place for place, known in places.items() if name in known)


def _refuse_again(options: Mapping[str, Any], *fixed: str) -> None:
    for name in fixed:
        if name in options:
            raise ValueError(f"{name} cannot be changed in .options(): set it in the decorator.")


def _check_group_given_once(options: Mapping[str, Any]) -> None:
    given = options.get("placement_group", "default") not in ("default", None)
    if given and options.get("scheduling_strategy") is not None:
        raise ValueError("A placement group belongs in scheduling_strategy= alone; placement_group= is older.")
