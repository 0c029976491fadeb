"""Thousands of rounds of everything leave memory, descriptors, processes and the engine's tables as they were."""

from __future__ import annotations

import pytest
from programs import output_of

PROGRAM = """
import numpy as np, psutil

@ray.remote
def echo(value):
    return value

@ray.remote
def bad():
    raise ValueError("bad")

@ray.remote
def slow():
    time.sleep(10)

@ray.remote(num_returns="streaming")
def stream():
    yield 1
    yield large

@ray.remote
def nested(box):
    return ray.get(echo.options(num_cpus=0).remote(ray.get(box[0])))[0]

@ray.remote
class Cell:
    def get(self):
        return 1

large = np.ones(1 << 15)

def one_round(i):
    ray.get(echo.remote(i))
    ray.get(echo.remote(large))
    ray.get(ray.put(large))
    ray.put(i)
    try:
        ray.get(bad.remote())
    except ValueError:
        pass
    ref = slow.remote()
    ray.cancel(ref)
    try:
        ray.get(ref)
    except ray.exceptions.TaskCancelledError:
        pass
    if i % 10 == 0:
        ray.get(Cell.remote().get.remote())
        [ray.get(item) for item in stream.remote()]
        next(stream.remote())
        ray.get(nested.remote([ray.put(large)]))

def settled():
    engine = ray.core.engine.current()
    deadline = time.monotonic() + 30
    while True:
        gc.collect()
        ray.available_resources()
        hub = engine.hub
        granted = sum(size for worker in hub.workers.values() for _, size in worker.granted)
        busy = hub.rows or hub.actors or hub.streams or len(hub.workers) > 6 or hub.arena.used - granted > 1 << 16
        if not busy or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    children = me.children(recursive=True)
    return {
        "rows": len(hub.rows),
        "actors": len(hub.actors),
        "streams": len(hub.streams),
        "timers": len(hub.timers),
        "arena": hub.arena.used - granted,
        "descriptors": me.num_fds(),
        "threads": me.num_threads(),
        "processes": len(children),
        "memory": me.memory_info().rss >> 20,
        "memory of a worker": max(child.memory_info().rss for child in children) >> 20,
    }

me = psutil.Process()
rounds = int(sys.argv[1])
ray.init(num_cpus=2, log_to_driver=False)
for i in range(rounds // 5):
    one_round(i)
before = settled()
for i in range(rounds):
    one_round(i)
after = settled()
print(before)
print(after)
for name in ("rows", "actors", "streams", "arena"):
    assert after[name] <= (1 << 16 if name == "arena" else 0), (name, before, after)
slack = {"timers": 30, "descriptors": 24, "threads": 1, "processes": 6, "memory": 12, "memory of a worker": 12}
for name, more in slack.items():
    assert after[name] <= before[name] + more, (name, before, after)
ray.shutdown()
assert not me.children(recursive=True)
"""


@pytest.mark.timeout(300)
def test_fifteen_hundred_rounds_leave_nothing_behind() -> None:
    print(output_of(PROGRAM, "1500", timeout=280))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_four_thousand_rounds_leave_nothing_behind() -> None:
    print(output_of(PROGRAM, "4000", timeout=290))


FRAMES = """
import builtins, weakref

class Held:
    pass

@ray.remote(max_retries=0, num_cpus=0)
def fails(how):
    if how == "error":
        raise ValueError
    if how == "crash":
        os._exit(1)
    raise KeyboardInterrupt

def caller(how):
    held = Held()
    builtins.held = weakref.ref(held)
    if how == "own error":
        raise ValueError
    ray.get(fails.remote(how))

def is_freed():
    return builtins.held() is None

@ray.remote
def inside(how, catch):
    gc.disable()
    try:
        caller(how)
    except Exception:
        if not catch:
            raise
    return is_freed()

gc.disable()
how, where = sys.argv[1:]
ray.init(num_cpus=1)
if where == "driver":
    try:
        caller(how)
    except Exception:
        pass
    print(is_freed())
elif where == "task that catches it":
    print(ray.get(inside.remote(how, True)))
else:
    try:
        ray.get(inside.remote(how, False))
    except Exception:
        pass
    print(ray.get(ray.remote(is_freed).remote()))
"""


@pytest.mark.parametrize("where", ["driver", "task that catches it", "task that ends with it"])
@pytest.mark.parametrize("how", ["error", "crash", "cancel", "own error"])
def test_caught_error_keeps_nothing_of_the_frames_it_went_through(how: str, where: str) -> None:
    assert output_of(FRAMES, how, where).strip() == "True"
