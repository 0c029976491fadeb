"""`@remote` on functions."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

import skate
from skate.core.options import DYNAMIC, STREAMING
from skate.core.placement import ALONE, LabelTest, Where
from skate.remote_function import RemoteFunction
from skate.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@skate.remote
def half(x: int, by: int = 2) -> float:
    """Divide."""
    return x / by


def test_keeps_the_functions_name_and_doc() -> None:
    assert half.__name__ == "half" and half.__doc__ == "Divide."
    assert half.__wrapped__(4) == 2 and half._function is half.__wrapped__
    assert isinstance(half, RemoteFunction)


def test_runs(session: None) -> None:
    assert skate.get(half.remote(3)) == 1.5
    assert skate.get(half.remote(skate.put(3), by=skate.put(3))) == 1


def test_direct_call_names_the_fix() -> None:
    with pytest.raises(TypeError, match=r"half\.remote\("):
        half(1)


@pytest.mark.parametrize("arguments", [(5,), (), (half.__wrapped__, 1)], ids=["value", "none", "two"])
def test_remote_needs_a_function_or_options(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(AssertionError):
        skate.remote(*arguments)


@pytest.mark.parametrize("target", [pow, print, len], ids=["pow", "print", "len"])
def test_builtins_are_refused(target: Any) -> None:
    with pytest.raises(TypeError, match="Wrap it in a function"):
        skate.remote(target)
    with pytest.raises(TypeError):
        skate.remote(num_cpus=1)(target)


def test_async_functions_are_refused() -> None:
    async def f() -> None: ...

    with pytest.raises(ValueError, match="async def"):
        skate.remote(f)


def test_wrong_arguments_fail_at_the_call(session: None) -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        half.remote()
    with pytest.raises(TypeError, match="too many positional arguments"):
        half.remote(1, 2, 3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        half.remote(1, z=2)
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        half.remote(1, x=2)


def test_argument_may_be_called_self(session: None) -> None:
    @skate.remote
    def f(self: int, args: int, kwargs: int) -> int:
        return self + args + kwargs

    assert skate.get(f.remote(self=1, args=2, kwargs=3)) == 6


def test_unknown_option_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"num_cpus.*runtime_env"):
        skate.remote(num_cpu=1)(lambda: 0)
    with pytest.raises(ValueError, match="num_cpus"):
        half.options(num_cpu=1)


def test_options_go_over_those_of_the_decorator() -> None:
    @skate.remote(num_cpus=2, name="slow", max_retries=7)
    def f() -> None: ...

    both = f.options(name="fast", num_gpus=1)._task_options
    assert both.name == "fast" and both.max_retries == 7
    assert dict(both.resources) == {"CPU": 20_000, "GPU": 10_000}
    assert f._task_options.name == "slow"


def test_generator_functions_stream_by_default() -> None:
    def count() -> Iterator[int]:
        yield 1

    def returns(**options: Any) -> int:
        made: Any = skate.remote(**options)(count) if options else skate.remote(count)
        return int(made._task_options.returns)

    assert returns() == returns(num_returns="streaming") == STREAMING
    assert returns(num_returns="dynamic") == DYNAMIC
    assert returns(num_returns=3) == 3


def test_streaming_needs_a_generator() -> None:
    with pytest.raises(ValueError, match="yield"):
        half.options(num_returns="streaming")


def test_exception_classes_to_retry_on_travel_with_the_task() -> None:
    options = half.options(retry_exceptions=[KeyError, OSError])._task_options
    assert options.retry_exceptions and pickle.loads(options.retry_on) == (KeyError, OSError)


def test_travels_with_its_options() -> None:
    sent = cloudpickle.loads(cloudpickle.dumps(half.options(name="x", num_returns=0)))
    assert sent.__name__ == "half" and sent._task_options.name == "x"
    assert sent._task_options.returns == 0


def test_calls_itself_and_others_from_a_task(session: None) -> None:
    @skate.remote
    def factorial(n: int) -> Any:
        return 1 if n == 0 else n * skate.get(factorial.remote(n - 1))

    @skate.remote
    def use(f: Any) -> Any:
        return skate.get(f.remote(4))

    assert skate.get(factorial.remote(5)) == 120
    assert skate.get(use.remote(half)) == 2


def test_a_wish_about_the_place_is_part_of_the_options() -> None:
    assert half._task_options.where is None
    assert half.options(scheduling_strategy="DEFAULT")._task_options.where == ALONE, "whatever its caller captures"
    assert half.options(scheduling_strategy="SPREAD")._task_options.where == Where(spread=True)
    chosen = half.options(label_selector={"zone": "a"}, fallback_strategy=[{"label_selector": {"zone": "!a"}}])
    assert chosen._task_options.where == Where(
        selectors=((LabelTest("zone", ("a",)),), (LabelTest("zone", ("a",), True),))
    )
    node = "ab" * 28
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    assert half.options(scheduling_strategy=strategy)._task_options.where == Where(node=node)


def test_a_wish_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'DEFAULT' or 'SPREAD'"):
        half.options(scheduling_strategy="EVEN")
    with pytest.raises(TypeError, match="NodeAffinitySchedulingStrategy"):
        half.options(scheduling_strategy=17)
