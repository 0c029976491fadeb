"""What the engine `ray` adds to plain Ray: the same calls, with Ray's own API and with Skate's, in one process.

Both use the same session of Ray and the same kinds of workers, in short turns, and each turn begins with another one:
so other work on the machine weighs on both. What is added is the median, over the turns, of the difference between two
neighbours. The last line leaves Ray out: what the translation takes by itself, the best of many tries.

Run with a Python that has Ray, from the root of the repository: python benchmarks/ray_engine.py
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
warnings.simplefilter("ignore")

import ray  # noqa: E402  it reads its environment when it is imported

import skate  # noqa: E402
from skate.core import engine as engines  # noqa: E402

IN_FLIGHT, ONE_BY_ONE = 1000, 25
Turn = Callable[[], object]


def cases(api: Any) -> dict[str, tuple[int, Turn]]:
    """What is measured: the number of calls in a turn, and the turn."""

    @api.remote
    def nothing() -> None:
        return None

    @api.remote
    class Actor:
        def nothing(self) -> None:
            return None

    actor = Actor.remote()
    get = api.get
    return {
        "task, 1,000 in flight": (IN_FLIGHT, lambda: get([nothing.remote() for _ in range(IN_FLIGHT)])),
        "task, one at a time": (ONE_BY_ONE, lambda: [get(nothing.remote()) for _ in range(ONE_BY_ONE)]),
        "actor call, 1,000 in flight": (IN_FLIGHT, lambda: get([actor.nothing.remote() for _ in range(IN_FLIGHT)])),
        "actor call, one at a time": (ONE_BY_ONE, lambda: [get(actor.nothing.remote()) for _ in range(ONE_BY_ONE)]),
    }


def timed(turn: Turn, calls: int) -> float:
    """Microseconds a call."""
    began = time.perf_counter()
    turn()
    return (time.perf_counter() - began) / calls * 1e6


def compare(turns: int) -> None:
    """Measure both, and print a table."""
    plain, ours = cases(ray), cases(skate)
    print(f"{'us a call':30}{'plain Ray':>12}{'engine ray':>12}{'added':>10}{'of Ray':>9}{'spread of added':>22}")
    for name, (calls, turn) in plain.items():
        own = ours[name][1]
        for warm in (turn, own, turn, own):
            warm()
        number = turns if calls == IN_FLIGHT else 8 * turns
        pairs = []
        for _ in range(number):
            if random.random() < 0.5:
                theirs, mine = timed(turn, calls), timed(own, calls)
            else:
                mine, theirs = timed(own, calls), timed(turn, calls)
            pairs.append((theirs, mine))
        base = statistics.median(theirs for theirs, _ in pairs)
        differences = sorted(mine - theirs for theirs, mine in pairs)
        added = statistics.median(differences)
        low, _, high = statistics.quantiles(differences, n=4)
        median = statistics.median(mine for _, mine in pairs)
        print(f"{name:30}{base:>12,.1f}{median:>12,.1f}{added:>10.1f}{added / base:>9.1%}{low:>12.1f} to {high:.1f}")


def translation() -> None:
    """Print what the calls take when Ray's part of them takes nothing."""

    @skate.remote
    def nothing() -> None:
        return None

    @skate.remote
    class Actor:
        def nothing(self) -> None:
            return None

    actor = Actor.remote()  # type: ignore[attr-defined]
    refs = [nothing.remote()]
    skate.get([*refs, actor.nothing.remote()])
    native = refs[0]._native  # type: ignore[attr-defined]

    def at_once(*args: object, **kwargs: object) -> object:
        return native

    engine: Any = engines.current()
    for key, known in list(engine.functions.items()):
        engine.functions[key] = (at_once, *known[1:])
    for known in engine.actors.values():
        known.methods = {name: (at_once, ready[1]) for name, ready in known.methods.items()}
    values = [None] * IN_FLIGHT
    real, ray.get = ray.get, lambda natives, timeout: values[: len(natives)]
    thousand = refs * IN_FLIGHT
    try:
        empty = least(lambda: [at_once() for _ in range(IN_FLIGHT)])
        task = least(lambda: [nothing.remote() for _ in range(IN_FLIGHT)]) - empty
        call = least(lambda: [actor.nothing.remote() for _ in range(IN_FLIGHT)]) - empty
        got = least(lambda: skate.get(thousand))
    finally:
        ray.get = real
    print(f"the translation alone, us: a task {task:.2f}, an actor call {call:.2f}, a get of one of 1,000 {got:.2f}")


def least(turn: Turn) -> float:
    """The best of many, in microseconds a call."""
    return min(timed(turn, IN_FLIGHT) for _ in range(300))


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=40, help="turns of 1,000 calls; eight times as many short ones")
    turns = parser.parse_args().turns
    skate.init(engine="ray", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        now = datetime.datetime.now(datetime.UTC)
        print(
            f"{now:%Y-%m-%d %H:%M} UTC, {os.cpu_count()} CPUs ({platform.machine()}), Ray {ray.__version__}, ", end=""
        )
        print(f"Python {platform.python_version()}, {turns} turns, load {os.getloadavg()[0]:.1f}")
        compare(turns)
        translation()
    finally:
        skate.shutdown()


if __name__ == "__main__":
    main()
