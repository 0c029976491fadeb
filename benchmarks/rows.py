"""The rows of the table: which figure each shows, in which unit, and what it has to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

Samples = Mapping[str, Mapping[str, list[float]]]  # column -> figure -> one value per round

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "MB": 1e-6, "B": 1.0, "": 1.0}

# Medians of two rows that do the same work differ by this much from run to run.
NOISE = 1.05
# A put is a copy plus its bookkeeping; half as much again as the bare copy still counts as near it.
NEAR = 1.5


@dataclass(frozen=True)
class Goal:
    """One thing that a row must reach: the words for the table and the check."""

    words: str
    met: Callable[[Samples, str, str], bool | None]  # samples, own column, rival; None: cannot say


@dataclass(frozen=True)
class Row:
    figure: str
    title: str
    unit: str
    case: str
    goals: tuple[Goal, ...] = field(default=())


def middle(samples: Samples, column: str, figure: str) -> float | None:
    values = samples.get(column, {}).get(figure)
    return median(values) if values else None


def faster(figure: str, times: float) -> Goal:
    def met(samples: Samples, own: str, rival: str) -> bool | None:
        ours, theirs = middle(samples, own, figure), middle(samples, rival, figure)
        return None if ours is None or theirs is None else theirs / ours >= times

    return Goal(f"{times:g}x" if times > 1 else "no slower", met)


def below(figure: str, limit: float, words: str) -> Goal:
    def met(samples: Samples, own: str, rival: str) -> bool | None:
        ours = middle(samples, own, figure)
        return None if ours is None else ours < limit

    return Goal(words, met)


def at_most(figure: str, other: str, column: str | None, factor: float, words: str) -> Goal:
    """No more than `factor` times figure `other` of `column` (of its own where None)."""

    def met(samples: Samples, own: str, rival: str) -> bool | None:
        ours, theirs = middle(samples, own, figure), middle(samples, column or own, other)
        return None if ours is None or theirs is None else ours <= factor * theirs

    return Goal(words, met)


def fact(figure: str, words: str, value: float = 1.0) -> Goal:
    """Every round must have found the fact to be so."""

    def met(samples: Samples, own: str, rival: str) -> bool | None:
        values = samples.get(own, {}).get(figure)
        return None if not values else all(found == value for found in values)

    return Goal(words, met)


def done(figure: str, words: str) -> Goal:
    """The case came to its end: a case that fails leaves no figure."""

    def met(samples: Samples, own: str, rival: str) -> bool | None:
        return bool(samples.get(own, {}).get(figure))

    return Goal(words, met)


def at_least(figure: str, count: float, words: str) -> Goal:
    """Every round did as much as `count`: a shortened run has not reached the goal."""

    def met(samples: Samples, own: str, rival: str) -> bool | None:
        values = samples.get(own, {}).get(figure)
        return min(values) >= count if values else None

    return Goal(words, met)


ASYNC = at_most("async_actor_batch", "actor_batch", None, NOISE, "no slower than sync actor")
MEMCPY = at_most("put_100mb", "put_100mb", "memcpy", NEAR, f"within {NEAR:g}x memcpy")
ZERO_COPY = fact("zero_copy", "zero-copy")
SHARED = fact("shared_mapping", "shared")
NO_NUMPY = fact("import_numpy", "without NumPy", 0.0)

ROWS = (
    Row("start", "init() + first task", "ms", "start",
        (faster("start", 25), below("start", 0.2, "< 200 ms"))),
    Row("start_init", "  of it init()", "ms", "start"),
    Row("start_import", "  with the import", "ms", "start"),
    Row("shutdown", "shutdown()", "ms", "start"),
    Row("task_sync", "task, one at a time", "us", "task_sync", (faster("task_sync", 20),)),
    Row("task_batch", "task, 1,000 in flight", "us", "task_batch", (faster("task_batch", 30),)),
    Row("actor_sync", "actor call, one at a time", "us", "actor_sync",
        (faster("actor_sync", 12),)),
    Row("actor_batch", "actor call, 1,000 in flight", "us", "actor_batch",
        (faster("actor_batch", 20),)),
    Row("async_actor_batch", "async actor, 1,000 in flight", "us", "actor_batch", (ASYNC,)),
    Row("put_small", "put, small value", "us", "small_values", (faster("put_small", 50),)),
    Row("get_small", "get, small value", "us", "small_values", (faster("get_small", 10),)),
    Row("array_1mb", "1 MB array there and back", "us", "array_1mb", (faster("array_1mb", 25),)),
    Row("put_100mb", "put 100 MB, warm", "ms", "array_100mb", (faster("put_100mb", 1), MEMCPY)),
    Row("get_100mb", "get 100 MB", "us", "array_100mb",
        (below("get_100mb", 50e-6, "< 50 us"), ZERO_COPY, SHARED)),
    Row("get_100mb_first", "get 100 MB, a task's result", "us", "array_100mb",
        (below("get_100mb_first", 50e-6, "< 50 us"),)),
    Row("actors_100", "100 actors answered", "s", "actors_100",
        (below("actors_100", 1.5, "< 1.5 s"),)),
    Row("actor_private", "  private memory each", "MB", "actors_100",
        (below("actor_private", 3e6, "< 3 MB"),)),
    Row("actor_proportional", "  with its part of shared", "MB", "actors_100"),
    Row("live_refs", "100,000 live refs", "s", "live_refs", (done("live_refs", "completes"),)),
    Row("live_refs_drop", "  dropping them", "s", "live_refs"),
    Row("live_ref_driver", "  driver's memory per ref", "B", "live_refs"),
    Row("live_ref_tree", "  all memory per ref", "B", "live_refs"),
    Row("queued_count", "queued tasks", "", "queued_tasks",
        (at_least("queued_count", 1e6, "1,000,000 complete"),)),
    Row("queued", "  submitted and run", "s", "queued_tasks"),
    Row("queued_submit", "  of it submitting", "s", "queued_tasks"),
    Row("queued_driver", "  driver's memory per task", "B", "queued_tasks",
        (below("queued_driver", 1024, "< 1 KB"),)),
    Row("queued_tree", "  all memory per task", "B", "queued_tasks",
        (below("queued_tree", 1024, "< 1 KB"),)),
    Row("import", "import", "ms", "import", (below("import", 0.06, "< 60 ms"), NO_NUMPY)),
    Row("installed", "base install", "MB", "install",
        (below("installed", 30e6, "< 30 MB"),)),
)  # fmt: skip
