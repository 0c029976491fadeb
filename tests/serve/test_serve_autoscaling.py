"""How many replicas are wanted, by a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skate.serve.autoscaling import Autoscaler, AutoscalingContext
from skate.serve.config import AutoscalingConfig
from skate.serve.deployments import deployment


class Load:
    """A deployment under a load that is set by hand; its replicas are there at once."""

    def __init__(self, **options: object) -> None:
        self.config = AutoscalingConfig(**options)  # type: ignore[arg-type]
        self.scaler = Autoscaler(self.config)
        self.now = 0.0
        self.replicas = self.config.first()

    def hold(self, requests: float, seconds: float, step: float = 0.1, queued: float = 0) -> list[int]:
        """Hold the load for a time; how many replicas there were."""
        seen = []
        for _ in range(round(seconds / step)):
            self.now += step
            self.scaler.note(requests, queued, self.now)
            self.replicas = self.scaler.wanted(self.replicas, self.replicas, self.now)
            seen.append(self.replicas)
        return seen


QUICK = {"look_back_period_s": 1.0, "upscale_delay_s": 2.0, "downscale_delay_s": 5.0}


def test_replicas_follow_the_requests_after_the_delays() -> None:
    load = Load(max_replicas=10, **QUICK)
    assert set(load.hold(2, 10)) == {1}
    assert set(load.hold(8, 1.9)) == {1}, "not before upscale_delay_s"
    load.hold(8, 3)
    assert load.replicas == 4
    assert min(load.hold(2, 4.5)) == 4, "not before downscale_delay_s"
    load.hold(2, 3)
    assert load.replicas == 1


def test_a_short_peak_is_passed_over() -> None:
    load = Load(max_replicas=10, **QUICK)
    load.hold(2, 5)
    assert set(load.hold(20, 0.8) + load.hold(2, 10)) == {1}


def test_the_bounds_hold() -> None:
    load = Load(min_replicas=2, max_replicas=5, **QUICK)
    load.hold(1000, 20)
    assert load.replicas == 5
    load.hold(0, 20)
    assert load.replicas == 2


def test_to_zero_and_from_zero() -> None:
    load = Load(min_replicas=0, max_replicas=4, downscale_to_zero_delay_s=8.0, initial_replicas=2, **QUICK)
    assert min(load.hold(0, 6.5)) == 1, "the last one stays longer"
    load.hold(0, 10)
    assert load.replicas == 0
    assert load.hold(0, 0.1, queued=5) == [3], "what waits is served at once, without a delay"


def test_factors_slow_it_down() -> None:
    load = Load(max_replicas=100, upscaling_factor=0.5, downscaling_factor=0.5, look_back_period_s=1.0,
                upscale_delay_s=0.0, downscale_delay_s=0.0)  # fmt: skip
    scaler = load.scaler
    scaler.note(40, 0, 1.0)
    assert scaler.wanted(10, 10, 1.0) == 15
    scaler.note(2, 0, 2.0)
    assert scaler.wanted(10, 10, 3.5) == 6
    assert scaler.wanted(2, 2, 3.6) == 1, "one at least, or it would never arrive"


@pytest.mark.parametrize(("how", "expected"), [("mean", 2), ("max", 4), ("min", 1)])
def test_aggregation(how: str, expected: int) -> None:
    scaler = Autoscaler(AutoscalingConfig(max_replicas=9, aggregation_function=how, upscale_delay_s=0,
                                          look_back_period_s=10))  # fmt: skip
    scaler.note(0, 0, 0.0)
    scaler.note(8, 0, 5.0)
    assert scaler.wanted(1, 1, 10.0) == expected


def test_what_happened_before_the_look_back_period_does_not_count() -> None:
    scaler = Autoscaler(AutoscalingConfig(max_replicas=9, look_back_period_s=10))
    scaler.note(100, 0, 0.0)
    scaler.note(4, 0, 20.0)
    assert scaler.requests(25.0) == pytest.approx(52)
    scaler.note(4, 0, 30.0)
    assert scaler.requests(30.0) == pytest.approx(4)


def test_a_policy_of_the_program_decides() -> None:
    seen: list[AutoscalingContext] = []

    def policy(context: AutoscalingContext) -> tuple[int, dict[str, int]]:
        seen.append(context)
        return 3, {"calls": context.policy_state.get("calls", 0) + 1}

    scaler = Autoscaler(AutoscalingConfig(max_replicas=9, upscale_delay_s=0, policy=policy), "app", "d")
    scaler.note(5, 2, 1.0)
    assert scaler.wanted(1, 1, 1.0) == 3
    scaler.wanted(3, 3, 2.0)
    assert seen[1].policy_state == {"calls": 1} and seen[0].total_queued_requests == 2


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(0.1, 20)), max_size=20), st.integers(0, 3), st.integers(3, 9))
def test_never_out_of_bounds(loads: list[tuple[float, float]], least: int, most: int) -> None:
    load = Load(min_replicas=least, max_replicas=most, **QUICK)
    for requests, seconds in loads:
        assert all(least <= each <= most for each in load.hold(requests, seconds, step=0.5))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"min_replicas": -1}, "min_replicas"),
        ({"max_replicas": 0}, "max_replicas"),
        ({"min_replicas": 5, "max_replicas": 2}, "max_replicas"),
        ({"initial_replicas": 7, "max_replicas": 3}, "initial_replicas"),
        ({"target_ongoing_requests": 0}, "target_ongoing_requests"),
        ({"upscale_delay_s": -1}, "upscale_delay_s"),
        ({"look_back_period_s": float("nan")}, "look_back_period_s"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"aggregation_function": "median"}, "aggregation_function"),
    ],
)
def test_wrong_settings_name_the_field(options: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        deployment(autoscaling_config=options)(lambda: None)


def test_auto_stands_for_one_to_a_hundred() -> None:
    made = deployment(num_replicas="auto")(lambda: None)
    assert (made.autoscaling_config.min_replicas, made.autoscaling_config.max_replicas) == (1, 100)
    with pytest.raises(ValueError, match="num_replicas"):
        deployment(num_replicas="many")(lambda: None)
    with pytest.raises(ValueError, match="autoscaling_config"):
        deployment(num_replicas=2, autoscaling_config={"max_replicas": 3})(lambda: None)
