"""Options of calls from the words that users write: shared by functions and actors' methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from skate.core import engine as engines
from skate.core.groups import check_bundle
from skate.core.options import DYNAMIC, STREAMING, check_method_options
from skate.core.placement import ALONE, Where, captured, parse_selector
from skate.core.serialization import pack
from skate.core.spec import CallOptions, Resources

_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200  # as in `inspect`, which is slow to load


def generates(function: Callable[..., Any]) -> bool:
    """Whether calling `function` makes a generator, plain or asynchronous."""
    return bool(_flags(function) & (_GENERATOR | _ASYNC_GENERATOR))


def is_coroutine(function: Callable[..., Any]) -> bool:
    """Whether `function` is an ``async def`` without ``yield``."""
    return bool(_flags(function) & _COROUTINE)


def _flags(function: Callable[..., Any]) -> int:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code.co_flags if code is not None else 0


def number_of_returns(value: int | str | None, default: int) -> int:
    """``num_returns`` as the engines know it."""
    if value is None:
        return default
    if value == "streaming":
        return STREAMING
    return DYNAMIC if value == "dynamic" else int(value)


def retry_rule(value: Any) -> tuple[bool, bytes]:
    """``retry_exceptions`` as the engines know it: whether to retry, and on which classes."""
    if isinstance(value, list | tuple):
        return bool(value), pack(tuple(value)).to_bytes() if value else b""
    return bool(value), b""


def backpressure(options: Mapping[str, Any]) -> int:
    """How many unread items a stream may hold; 0: no limit."""
    limit = options.get("_generator_backpressure_num_objects")
    return limit if limit is not None and limit > 0 else 0


def where_of(options: Mapping[str, Any], *needs: Resources) -> Where | None:
    """Where a call is to run, by its ``scheduling_strategy``, ``placement_group`` and ``label_selector``.

    ValueError when that is a placement group in which one of `needs` has no room, or without a bundle of that number.
    """
    strategy = options.get("scheduling_strategy")
    if hasattr(strategy, "placement_group") or strategy is None:
        where = _where_in_group(strategy, options, needs)
    elif isinstance(strategy, str):
        where = Where(spread=True) if strategy == "SPREAD" else ALONE
    else:
        where = strategy.where()
        if not where.node:
            where = msgspec.structs.replace(where, alone=True)
    selector = options.get("label_selector")
    if selector:
        others = [entry.get("label_selector") for entry in options.get("fallback_strategy") or ()]
        where = msgspec.structs.replace(where, selectors=tuple(map(parse_selector, (selector, *others))))
    return where if where != Where() else None


def _where_in_group(strategy: Any, options: Mapping[str, Any], needs: tuple[Resources, ...]) -> Where:
    """The wish of a call with a strategy for placement groups, or with none."""
    if strategy is not None:
        group, bundle = strategy.placement_group, strategy.placement_group_bundle_index
        capture = strategy.placement_group_capture_child_tasks
    else:
        group, bundle = options.get("placement_group", "default"), options.get("placement_group_bundle_index", -1)
        capture = options.get("placement_group_capture_child_tasks")
    if strategy is not None and group not in (None, "default") and not hasattr(group, "where"):
        raise TypeError(f"PlacementGroupSchedulingStrategy takes a placement group or None, not {group!r}.")
    if group is None or isinstance(group, str):
        check_bundle(bundle, 0)
        if group is None or capture is False:
            return ALONE
        engine = engines.running() if capture else None
        return captured(Where(group=engine.context().group, capture=True)) or Where() if engine else Where()
    where: Where = group.where(bundle, capture)
    if not where.group:
        return ALONE
    group.check_fit(needs, bundle)
    return where


def call_options(base: CallOptions, options: dict[str, Any], generator: bool | None) -> CallOptions:
    """`base` with the options that were given over it, for a method that is a generator or is not."""
    if not options:
        return base
    check_method_options(options, again=True, generator=generator)
    changes: dict[str, Any] = {}
    if options.get("num_returns") is not None:
        changes["returns"] = number_of_returns(options["num_returns"], base.returns)
    if options.get("concurrency_group") is not None:
        changes["group"] = options["concurrency_group"]
    if options.get("max_task_retries") is not None:
        changes["max_retries"] = options["max_task_retries"]
    if options.get("retry_exceptions") is not None:
        changes["retry_exceptions"], changes["retry_on"] = retry_rule(options["retry_exceptions"])
    if options.get("name") is not None:
        changes["name"] = options["name"]
    if options.get("enable_task_events") is not None:
        changes["events"] = options["enable_task_events"]
    if options.get("_generator_backpressure_num_objects") is not None:
        changes["backpressure"] = backpressure(options)
    return msgspec.structs.replace(base, **changes)
