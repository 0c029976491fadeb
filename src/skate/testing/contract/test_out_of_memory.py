"""Memory that runs short: who is ended, who is tried again, and what the caller gets.

The share of memory that may be in use is set to nothing, so that it is always short and no case has to fill it.
"""

import os
import time

import pytest

from skate.testing.contract import differs_on_ray, not_yet
from skate.testing.contract.tools import raised, until_no_error

INIT = {
    "_system_config": {
        "memory_usage_threshold": 0.0,
        "task_oom_retries": 1,
        "task_oom_retry_delay_base_ms": 100,
    }
}
LARGE = 128 << 20

has_workers = not_yet("inline", runs=False, reason="there is no process to end: the case would take the time it sleeps")
begins_first = differs_on_ray("with nothing allowed, a worker may be ended before its call has begun")


@pytest.fixture
def hog(ray, tally):
    """A task that takes memory and keeps it."""

    @ray.remote
    def hog():
        tally.add()
        block = bytearray(LARGE)
        time.sleep(30)
        return len(block)

    return hog


@pytest.fixture
def keeper(ray):
    """The class of an actor that takes memory and keeps it."""

    @ray.remote
    class Keeper:
        def keep(self):
            self.block = bytearray(LARGE)
            time.sleep(30)

        def ping(self):
            return "pong"

    return Keeper


@has_workers
@begins_first
def test_task_that_may_not_be_retried_gets_the_error_at_once(ray, hog, tally):
    with pytest.raises(ray.exceptions.OutOfMemoryError):
        ray.get(hog.options(max_retries=0).remote(), timeout=60)
    assert tally.count() == 1


@has_workers
@begins_first
def test_tries_after_a_shortage_have_a_limit_of_their_own(ray, hog, tally):
    with pytest.raises(ray.exceptions.OutOfMemoryError):
        ray.get(hog.options(max_retries=5).remote(), timeout=60)
    assert tally.count() == 2


@has_workers
@begins_first
def test_error_names_task_pid_and_memory_in_use(ray, tmp_path):
    @ray.remote(max_retries=0)
    def hog(path):
        path.write_text(str(os.getpid()))
        block = bytearray(LARGE)
        time.sleep(30)
        return block

    text = str(raised(lambda: ray.get(hog.remote(tmp_path / "pid"), timeout=60)))
    assert (tmp_path / "pid").read_text() in text
    assert "hog" in text and "memory" in text and "GB" in text


@has_workers
def test_actor_that_takes_the_memory_is_ended(ray, keeper):
    actor = keeper.remote()
    with pytest.raises(ray.exceptions.OutOfMemoryError):
        ray.get(actor.keep.remote(), timeout=60)
    with pytest.raises(ray.exceptions.OutOfMemoryError):
        ray.get(actor.ping.remote(), timeout=60)


@has_workers
@begins_first
def test_actor_that_may_be_restarted_comes_back(ray, keeper):
    actor = keeper.options(max_restarts=-1).remote()
    with pytest.raises(ray.exceptions.ActorUnavailableError):
        ray.get(actor.keep.remote(), timeout=60)
    assert until_no_error(lambda: ray.get(actor.ping.remote(), timeout=60), ray.exceptions.RayError) == "pong"


@has_workers
def test_error_is_an_error_of_ray_and_no_error_of_user_code(ray, hog):
    error = raised(lambda: ray.get(hog.options(max_retries=0).remote(), timeout=60))
    assert isinstance(error, ray.exceptions.RayError)
    assert not isinstance(error, ray.exceptions.RayTaskError)
    assert not isinstance(error, ray.exceptions.WorkerCrashedError)
