"""Workers that write nonsense to the driver: they are ended, and nothing else suffers."""

from __future__ import annotations

import os
import struct

import pytest

import skate
from skate.exceptions import ActorDiedError, WorkerCrashedError


def write(data: bytes) -> None:
    """Write bytes where this worker writes its messages."""
    from skate.core.engine import current

    os.write(current().link.write_fd, data)


def send(*messages: object) -> None:
    """Send messages that this worker may not send."""
    from skate.core.engine import current

    engine = current()
    engine.link.out.extend(messages)
    engine.flush()


def noise() -> None:
    write(struct.pack("<I", 20) + b"\xc1" * 20)


def a_frame_too_long() -> None:
    write(b"\xff" * 64)


def a_deep_frame() -> None:
    body = b"\x91" * 30_000 + b"\x90"
    write(struct.pack("<I", len(body)) + body)


def another_tasks_result() -> None:
    from skate.engines.local.messages import Done

    send(Done(12345, b"\x80\x05N."))


def memory_of_others() -> None:
    from skate.core.engine import current
    from skate.engines.local.messages import Put, Stored

    key = current().ids.take()
    send(Put(key, Stored(key, 0, 1 << 20)))


WAYS = (noise, a_frame_too_long, a_deep_frame, another_tasks_result, memory_of_others)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_worker_that_sends_nonsense_is_ended_and_its_task_fails_with_the_reason(way, session: None, capfd) -> None:
    @skate.remote(max_retries=0)
    def bad() -> None:
        import time

        way()
        time.sleep(60)

    kept = skate.put(bytes(range(256)) * 4096)
    with pytest.raises(WorkerCrashedError, match="was ended because it"):
        skate.get(bad.remote(), timeout=60)
    assert skate.get(kept) == bytes(range(256)) * 4096
    assert skate.get(skate.remote(lambda: "fine").remote(), timeout=60) == "fine"
    warnings = [line for line in capfd.readouterr().err.splitlines() if "nonsense" in line]
    assert len(warnings) == 1 and warnings[0].startswith("skate: worker ")


def test_its_task_is_tried_again_as_often_as_its_options_say(session: None) -> None:
    @skate.remote(max_retries=2)
    def bad_at_first() -> int:
        import time

        attempt = tries()
        if attempt < 2:
            another_tasks_result()
            time.sleep(60)
        return attempt

    def tries() -> int:
        from skate.core.engine import current

        return current().context().attempt

    assert skate.get(bad_at_first.remote(), timeout=60) == 2


def test_an_actor_that_sends_nonsense_dies_and_its_calls_fail(session: None) -> None:
    @skate.remote
    class Bad:
        def speak(self) -> None:
            import time

            noise()
            time.sleep(60)

    bad = Bad.remote()
    calls = [bad.speak.remote(), bad.speak.remote()]
    for call in calls:
        with pytest.raises(ActorDiedError, match="sent what is no message"):
            skate.get(call, timeout=60)


def test_the_process_that_starts_workers_passes_over_what_is_no_request(one_cpu: None) -> None:
    from skate.core.engine import current

    control = current().host.pool.control
    for message in (b"\xc1", b"\x90", b"\x91\xa4fork", b"x" * 8000, b"\x91" * 4000):
        control.send(message)

    @skate.remote(num_cpus=0)
    def pid() -> int:
        return os.getpid()

    assert skate.get(pid.remote(), timeout=60) != os.getpid()
