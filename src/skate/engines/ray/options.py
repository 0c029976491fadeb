"""Options as Ray spells them, from what engines are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from skate.core.environment import given_environment
from skate.core.options import DYNAMIC, STREAMING
from skate.core.placement import LabelTest, Where
from skate.core.resources import as_floats
from skate.core.serialization import unpack
from skate.core.spec import ActorOptions, CallOptions, MethodInfo, Resources, TaskOptions

_ACCELERATOR = "accelerator_type:"
Group = Callable[[int], Any]
"""The placement group of Ray's with a key."""


def resources(need: Resources) -> dict[str, Any]:
    """``num_cpus`` and the others."""
    amounts = as_floats(need)
    found: dict[str, Any] = {"num_cpus": amounts.pop("CPU", 0)}
    for name, option in (("GPU", "num_gpus"), ("memory", "memory")):
        if name in amounts:
            found[option] = amounts.pop(name)
    for name in [name for name in amounts if name.startswith(_ACCELERATOR)]:
        found["accelerator_type"] = name.removeprefix(_ACCELERATOR)
        del amounts[name]
    if amounts:
        found["resources"] = amounts
    return found


def returns(count: int) -> int | str:
    """``num_returns``."""
    return {STREAMING: "streaming", DYNAMIC: "dynamic"}.get(count, count)


def retry_on(retry: bool, packed: bytes) -> bool | list[type[Exception]]:
    """``retry_exceptions``."""
    return list(unpack(packed)) if packed else retry


def task(options: TaskOptions, group: Group) -> dict[str, Any]:
    """The options of a task."""
    found = {
        **resources(options.resources),
        "num_returns": returns(options.returns),
        "max_retries": options.max_retries,
        "retry_exceptions": retry_on(options.retry_exceptions, options.retry_on),
        "runtime_env": given_environment(options.environment) or None,
        **place(options.where, group),
    }
    if options.name:
        found["name"] = options.name
    if options.backpressure:
        found["_generator_backpressure_num_objects"] = options.backpressure
    if not options.events:
        found["enable_task_events"] = False
    return found


def actor(options: ActorOptions, group: Group) -> dict[str, Any]:
    """The options of an actor."""
    held = resources(options.resources)
    if options.placement != options.resources:  # Ray takes a CPU to place it and none to run it, by its own default
        del held["num_cpus"]
    found = {
        **held,
        "max_restarts": options.max_restarts,
        "max_task_retries": options.max_task_retries,
        "max_pending_calls": options.max_pending_calls,
        "get_if_exists": options.get_if_exists,
        "runtime_env": given_environment(options.environment) or None,
        **place(options.where, group),
    }
    if options.name:
        found["name"] = options.name
    if options.namespace:
        found["namespace"] = options.namespace
    if options.detached:
        found["lifetime"] = "detached"
    if options.max_concurrency:
        found["max_concurrency"] = options.max_concurrency
    if options.out_of_order:
        found["allow_out_of_order_execution"] = True
    if not options.events:
        found["enable_task_events"] = False
    return found


def call(options: CallOptions) -> dict[str, Any]:
    """The options of one call of a method."""
    found: dict[str, Any] = {"num_returns": returns(options.returns)}
    if options.group:
        found["concurrency_group"] = options.group
    if options.max_retries is not None:
        found["max_task_retries"] = options.max_retries
    if options.retry_exceptions:
        found["retry_exceptions"] = retry_on(True, options.retry_on)
    if options.name:
        found["name"] = options.name
    if options.backpressure:
        found["_generator_backpressure_num_objects"] = options.backpressure
    if options.events is not None:
        found["enable_task_events"] = options.events
    return found


def mark_methods(target: Any, methods: tuple[MethodInfo, ...]) -> None:
    """Tell Ray how many values methods return, for those who look the actor up by name."""
    for method in methods:
        if method.options.returns not in (1, STREAMING):
            ray.method(num_returns=returns(method.options.returns))(getattr(target, method.name))


def of_method(handle: Any, name: str) -> CallOptions:
    """The options of a method of an actor that was made elsewhere."""
    known = getattr(handle, "_ray_method_num_returns", None) or getattr(handle, "_method_num_returns", None) or {}
    number = known.get(name)
    if number in ("streaming", "dynamic"):
        return CallOptions(returns=STREAMING if number == "streaming" else DYNAMIC)
    if number is None and getattr(handle, "_ray_method_is_generator", {}).get(name):
        return CallOptions(returns=STREAMING)
    return CallOptions(returns=1 if number is None else number)


def place(where: Where | None, group: Group) -> dict[str, Any]:
    """``scheduling_strategy``, ``label_selector`` and ``fallback_strategy``."""
    from ray.util import scheduling_strategies as strategies

    if where is None:
        return {}
    found: dict[str, Any] = {}
    if where.group:
        found["scheduling_strategy"] = strategies.PlacementGroupSchedulingStrategy(
            group(where.group), where.bundle, where.capture
        )
    elif where.node:
        found["scheduling_strategy"] = strategies.NodeAffinitySchedulingStrategy(
            where.node, where.soft, where.spill, where.now
        )
    elif where.alone and not where.selectors and not where.liked:
        found["scheduling_strategy"] = "DEFAULT"  # not in the caller's placement group
    elif where.spread:
        found["scheduling_strategy"] = "SPREAD"
    if where.liked:
        hard = {test.name: _as_operator(test) for test in (where.selectors or ((),))[0]}
        soft = {test.name: _as_operator(test) for test in where.liked}
        found["scheduling_strategy"] = strategies.NodeLabelSchedulingStrategy(hard, soft=soft)
    elif where.selectors:
        selectors = [{test.name: as_text(test) for test in tests} for tests in where.selectors]
        found["label_selector"] = selectors[0]
        if len(selectors) > 1:
            found["fallback_strategy"] = [{"label_selector": selector} for selector in selectors[1:]]
    return found


def as_text(test: LabelTest) -> str:
    """A test of a label as users write it."""
    values = test.values[0] if len(test.values) == 1 else f"in({','.join(test.values)})"
    return f"{'!' if test.negated else ''}{values}"


def _as_operator(test: LabelTest) -> Any:
    from ray.util import scheduling_strategies as strategies

    if not test.values:
        return strategies.DoesNotExist() if test.negated else strategies.Exists()
    return (strategies.NotIn if test.negated else strategies.In)(*test.values)
