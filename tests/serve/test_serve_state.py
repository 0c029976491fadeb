"""What is decided of one deployment: played through with a clock of the test's own, and by Hypothesis."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skate.serve.config import DeploymentConfig
from skate.serve.state import PATIENCE, SICK, DeploymentState, application_status
from skate.serve.target import (
    ApplicationStatus,
    DeploymentStatus,
    Drain,
    Introduction,
    Kill,
    Phase,
    Reconfigure,
    Start,
    Target,
)


def target(replicas: int = 1, version: str = "1", light: int = 0, **options: object) -> Target:
    return Target(DeploymentConfig(num_replicas=replicas, **options), version, light, replicas, code=version)  # type: ignore[arg-type]


class Play:
    """A deployment whose commands are carried out by hand."""

    def __init__(self, first: Target) -> None:
        self.state = DeploymentState("app", "d")
        self.now = 100.0
        self.state.deploy(first, self.now)
        self.broken: set[str] = set()
        """Versions whose constructor raises."""

    def step(self, seconds: float = 0.0, *, full: bool = False) -> list[object]:
        """Do what is decided; with `full`, nothing new finds room."""
        self.now += seconds
        commands = self.state.decide(self.now)
        for command in commands:
            match command:
                case Start(name, wanted) if not full:
                    self.state.placed(name)
                    if wanted.version in self.broken:
                        self.state.failed(name, "KeyError: no", self.now)
                    else:
                        self.state.started(name, self.now)
                case Drain(name) | Kill(name):
                    self.state.died(name, "as it was told", self.now)
                case Reconfigure(name, wanted):
                    self.state.reconfigured(name, wanted.light)
        return commands

    def settle(self, limit: int = 200) -> None:
        for _ in range(limit):
            self.step(1.0)
            if self.state.reached() and not self.state.decide(self.now):
                return

    def versions(self) -> list[str]:
        return sorted(entry.target.version for entry in self.state.running())


def test_a_deployment_gets_its_replicas_and_is_healthy() -> None:
    play = Play(target(3))
    assert [type(command) for command in play.step()] == [Start] * 3
    assert play.step() == []
    assert play.state.status is DeploymentStatus.HEALTHY
    assert sorted(entry.rank for entry in play.state.running()) == [0, 1, 2]


def test_a_rolling_update_never_has_fewer_replicas_than_wanted() -> None:
    play = Play(target(4))
    play.settle()
    play.state.deploy(target(4, "2"), play.now)
    while not play.state.reached():
        commands = play.state.decide(play.now)
        live = [entry for entry in play.state.replicas.values() if entry.phase is not Phase.STOPPING]
        assert len(play.state.running()) >= 4 and len(live) <= 5
        for command in commands:
            if isinstance(command, Start):
                play.state.started(command.replica, play.now)
            elif isinstance(command, Drain):
                play.state.died(command.replica, "drained", play.now)
    play.step()
    assert play.versions() == ["2"] * 4
    assert play.state.status is DeploymentStatus.HEALTHY


def test_without_surge_old_replicas_go_first() -> None:
    play = Play(target(5))
    play.settle()
    play.state.deploy(target(5, "2", max_surge_percent=0, rolling_update_percentage=0.4), play.now)
    first = play.state.decide(play.now)
    assert sum(isinstance(command, Drain) for command in first) == 2
    assert len(play.state.replicas) <= 5 + 2  # those that drain count until they are gone
    play.settle()


def test_old_replicas_make_room_for_new_ones_that_find_none() -> None:
    play = Play(target(1))
    play.settle()
    play.state.deploy(target(1, "2"), play.now)
    assert [type(command) for command in play.step(full=True)] == [Start]
    assert play.step(PATIENCE / 2, full=True) == []
    assert play.state.next_look(play.now) is not None
    (command,) = play.step(PATIENCE, full=True)
    assert isinstance(command, Drain), "the old one makes room once the new one has waited long enough"


def test_a_constructor_that_fails_leaves_the_old_version_serving() -> None:
    play = Play(target(2))
    play.settle()
    play.broken = {"2"}
    play.state.deploy(target(2, "2"), play.now)
    for _ in range(30):
        play.step(10.0)
        assert play.versions() == ["1", "1"]
    assert play.state.status is DeploymentStatus.DEPLOY_FAILED
    assert "KeyError: no" in play.state.message
    assert play.state.failures == 6  # three for each replica


def test_an_old_replica_that_dies_while_the_new_version_cannot_be_had_is_replaced() -> None:
    play = Play(target(2))
    play.settle()
    play.broken = {"2"}
    play.state.deploy(target(2, "2"), play.now)
    for _ in range(30):
        play.step(10.0)
    play.state.died(play.state.running()[0].name, "killed", play.now)
    assert play.versions() == ["1"]
    play.step(100.0)
    assert play.versions() == ["1", "1"]
    play.broken = set()
    play.state.deploy(target(2, "3"), play.now)
    play.settle()
    assert play.versions() == ["3", "3"] and play.state.status is DeploymentStatus.HEALTHY


def test_failed_starts_are_tried_again_later_each_time() -> None:
    play = Play(target(1))
    play.broken = {"1"}
    waits = []
    for _ in range(2):
        play.step()
        waits.append(play.state.retry_at - play.now)
        assert play.step() == [], "not at once"
        play.now = play.state.retry_at
    assert waits[1] > waits[0] > 0
    assert play.state.status is DeploymentStatus.UPDATING
    play.step()
    assert play.state.status is DeploymentStatus.DEPLOY_FAILED
    assert play.step(1000.0) == [], "it is not tried for ever"


def test_max_constructor_retry_count_is_the_limit() -> None:
    play = Play(target(3, max_constructor_retry_count=2))
    play.broken = {"1"}
    play.step()
    assert play.state.status is DeploymentStatus.DEPLOY_FAILED


def test_a_replica_that_dies_is_replaced_and_the_status_says_so() -> None:
    play = Play(target(2))
    play.settle()
    play.now += 100
    play.state.died(play.state.running()[0].name, "SIGKILL", play.now)
    assert play.state.status is DeploymentStatus.UNHEALTHY and "SIGKILL" in play.state.message
    play.step()
    play.step()
    assert play.state.status is DeploymentStatus.HEALTHY and len(play.state.running()) == 2


def test_a_replica_that_dies_again_and_again_is_not_restarted_in_a_storm() -> None:
    play = Play(target(1))
    play.settle()
    starts = 0
    for _ in range(1000):
        starts += sum(isinstance(command, Start) for command in play.step(0.01))
        for entry in play.state.running():
            play.state.died(entry.name, "segmentation fault", play.now)
    assert 2 <= starts < 20, f"{starts} starts in 10 s"


def test_a_sick_replica_is_replaced_after_several_checks() -> None:
    play = Play(target(1))
    play.settle()
    (sick,) = play.state.running()
    for _ in range(SICK - 1):
        assert not play.state.checked(sick.name, "out of breath", play.now)
    assert play.state.checked(sick.name, "", play.now) is False, "one good check makes up for them"
    for _ in range(SICK):
        given_up = play.state.checked(sick.name, "out of breath", play.now)
    assert given_up and play.state.status is DeploymentStatus.UNHEALTHY
    play.step()
    play.step()
    assert sick.name not in play.state.replicas and play.state.status is DeploymentStatus.HEALTHY


def test_new_user_config_reaches_running_replicas_without_new_ones() -> None:
    play = Play(target(2))
    play.settle()
    before = set(play.state.replicas)
    play.state.deploy(target(2, light=7), play.now)
    assert play.state.status is DeploymentStatus.UPDATING
    assert [type(command) for command in play.step()] == [Reconfigure] * 2
    play.step()
    assert set(play.state.replicas) == before and play.state.status is DeploymentStatus.HEALTHY


def test_more_and_fewer_replicas() -> None:
    play = Play(target(2))
    play.settle()
    oldest = min(play.state.running(), key=lambda entry: entry.since).name
    play.state.deploy(target(4), play.now)
    assert play.state.status is DeploymentStatus.UPSCALING
    play.settle()
    assert play.state.status is DeploymentStatus.HEALTHY and play.state.trigger == "UPSCALE_COMPLETED"
    play.state.scale(1)
    assert play.state.status is DeploymentStatus.DOWNSCALING
    play.settle()
    assert [entry.name for entry in play.state.running()] == [oldest]


def test_a_replica_that_does_not_go_is_killed() -> None:
    play = Play(target(1, graceful_shutdown_timeout_s=3.0))
    play.settle()
    play.state.delete()
    (drain,) = play.state.decide(play.now)
    assert isinstance(drain, Drain)
    assert play.state.decide(play.now + 3.0) == []
    (kill,) = play.state.decide(play.now + 4.1)
    assert kill == Kill(drain.replica)


def introduction(wanted: Target, rank: int, leaving: bool = False) -> Introduction:
    return Introduction(wanted, rank, rank, {}, {}, None, leaving)


def test_a_replica_that_was_told_to_end_before_the_restart_ends() -> None:
    state = DeploymentState("app", "d", "second-")
    state.deploy(target(1), 5.0)
    state.adopt("first-1", introduction(target(1), 0, leaving=True), 5.0)
    state.adopt("first-2", introduction(target(1), 1), 5.0)
    assert state.decide(5.0) == [Drain("first-1")], "told once more, for nobody knows whether it heard all of it"
    assert [entry.name for entry in state.running()] == ["first-2"]


def test_replicas_that_were_found_again_are_kept() -> None:
    state = DeploymentState("app", "d", "second-")
    wanted = target(2)
    state.deploy(wanted, 5.0)
    state.adopt("first-1", introduction(wanted, 1), 5.0)
    state.adopt("first-2", introduction(replace(wanted, version="0"), 0), 5.0)
    (start,) = state.decide(5.0)
    assert isinstance(start, Start) and start.replica.startswith("second-")
    assert [entry.name for entry in state.running()] == ["first-1", "first-2"], "until the new one serves"


def test_an_application_is_as_well_as_the_worst_of_its_deployments() -> None:
    good, bad = Play(target()), Play(target())
    good.settle()
    assert application_status([good.state, bad.state], False)[0] is ApplicationStatus.DEPLOYING
    bad.broken = {"1"}
    bad.settle(20)
    status, message = application_status([good.state, bad.state], False)
    assert status is ApplicationStatus.DEPLOY_FAILED and "KeyError" in message
    assert application_status([good.state], False)[0] is ApplicationStatus.RUNNING
    assert application_status([good.state], True)[0] is ApplicationStatus.DELETING


events = st.lists(
    st.one_of(
        st.tuples(st.just("deploy"), st.integers(1, 5), st.sampled_from("12"), st.integers(0, 1)),
        st.tuples(st.just("scale"), st.integers(0, 5)),
        st.tuples(st.just("death"), st.integers(0, 4)),
        st.tuples(st.just("sick"), st.integers(0, 4)),
        st.tuples(st.just("break"), st.sampled_from("12")),
        st.tuples(st.just("wait"), st.floats(0, 50)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(events, st.sampled_from([0, 20, 100]))
def test_whatever_happens_it_ends_with_what_is_wanted(happenings: list[tuple], surge: int) -> None:  # type: ignore[type-arg]
    play = Play(target(2, max_surge_percent=surge))
    for what, *how in happenings:
        running = play.state.running()
        if what == "deploy":
            play.state.deploy(target(how[0], how[1], how[2], max_surge_percent=surge), play.now)
        elif what == "scale":
            play.state.scale(how[0])
        elif what in ("death", "sick") and running:
            victim = running[how[0] % len(running)].name
            if what == "death":
                play.state.died(victim, "killed", play.now)
            else:
                for _ in range(SICK):
                    play.state.checked(victim, "sick", play.now)
        elif what == "break":
            play.broken = {how[0]}
        play.step(how[0] if what == "wait" else 0.0)
        wanted = play.state.target
        assert wanted is not None
        live = [entry for entry in play.state.replicas.values() if entry.phase is not Phase.STOPPING]
        assert len(live) <= max(wanted.replicas * 2, 2) + 5
        ranks = [entry.rank for entry in live]
        assert len(set(ranks)) == len(ranks)
    play.broken = set()
    assert play.state.target is not None
    last = replace(play.state.target, version="last")
    play.state.deploy(last, play.now)
    play.settle()
    assert play.state.reached() and play.state.status is DeploymentStatus.HEALTHY
    assert play.versions() == ["last"] * last.replicas
    play.state.delete()
    play.settle()
    assert not play.state.replicas


@pytest.mark.parametrize("field", ["num_replicas", "max_ongoing_requests", "health_check_period_s"])
def test_options_out_of_bounds_are_named(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        DeploymentConfig(**{field: -3})
