"""What a chaos run asks for, made as it goes by a seeded generator, and what has to come of it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import skate
from skate.exceptions import ActorDiedError, ActorUnavailableError, TaskCancelledError, WorkerCrashedError
from skate.testing import chaos_more as more
from skate.testing import chaos_work as work

LIVING = 4
"""Actors of a thread alive at once."""
MAY_CRASH = (WorkerCrashedError,)


class Job(NamedTuple):
    """A call and what may come of it: `want`, or an error of one of the classes `may`."""

    kind: str
    ref: Any
    want: Any
    may: tuple[type[BaseException], ...] = ()
    must_fail: bool = False
    """`want` is a class and a text: the error that has to come."""
    items: int = -1
    """Of a stream: how many are read before it is dropped; `want` is the list of all."""
    put: bool = False
    """It takes a large object that was put."""
    keep: Any = None
    """What has to live until the result is there."""


class Troupe:
    """The actors that are alive, and what may happen to their calls."""

    def __init__(self, chance: random.Random, count: int, tasks: int) -> None:
        self.chance = chance
        self.left = count
        self.every = max(1, tasks // max(1, count))
        self.living: deque[tuple[str, Any, list[bool]]] = deque()
        """Kind, handle, and whether somebody killed it."""
        self.order = 0

    def turn(self, i: int) -> None:
        """New actors come, old ones leave."""
        if i % self.every == 0 and self.left:
            self.left -= 1
            kind = self.chance.choice(list(work.ACTORS))
            cls, options = work.ACTORS[kind]
            boxed = [skate.put(work.pattern(i, self.chance.choice((10, 90_000))))]
            self.living.append(
                (
                    kind,
                    skate.remote(**options)(cls).remote(boxed) if options else skate.remote(cls).remote(boxed),
                    [False],
                )
            )
        while len(self.living) > LIVING:
            kind, actor, killed = self.living.popleft()
            if self.chance.random() < 0.3:
                killed[0] = True
                skate.kill(actor)

    def job(self, i: int) -> Job | None:
        """A call of one of them."""
        if not self.living:
            return None
        kind, actor, _ = self.chance.choice(self.living)
        may: tuple[type[BaseException], ...] = ()
        if kind.startswith("mortal"):
            may = (ActorDiedError,)
        elif kind.startswith("phoenix"):
            may = (ActorUnavailableError,)
        if self.chance.random() < 0.02 and not kind.startswith("mortal"):
            skate.kill(actor, no_restart=False)
        may = (*may, ActorDiedError)  # it may be killed when its time is over
        return self._call(f"{kind}.", actor, i, may)

    def _call(self, kind: str, actor: Any, i: int, may: tuple[type[BaseException], ...]) -> Job:
        size = self.chance.choice((1_000, 70_000, 200_000))
        which = self.chance.choice(
            ("number", "number", "number", "sum", "large", "ask", "wrong", "stream", "task", "order")
        )
        if which == "sum":
            a, b = work.plain_for_ever.remote(i), skate.put(i)
            return Job(kind + which, actor.sum.remote(a, b, 1), work.number(i) + i + 1, may)
        if which == "large":
            return Job(kind + which, actor.large.remote(i, size), work.pattern(i, size), may)
        if which == "ask":
            return Job(kind + which, actor.ask.remote(i), work.number(i), may)
        if which == "wrong":
            return Job(kind + which, actor.wrong.remote(i), (work.Expected, f"as expected of {i}"), may, True)
        if which == "stream":
            count = self.chance.randint(0, 7)
            read = count if self.chance.random() < 0.7 else self.chance.randint(0, count)
            made = actor.stream.options(num_returns="streaming").remote(i, count, size)
            return Job(kind + which, made, list(work.items(i, count, size)), may, items=read)
        if which == "task":
            return Job(kind + which, work.call_actor.remote(actor, i), work.number(i), may)
        if which == "order" and kind in ("phoenix.", "mortal."):
            self.order += 1
            return Job(kind + which, actor.in_order.remote(self.order), True, may)
        return Job(kind + "number", actor.number.remote(i), work.number(i), may)


def jobs(chance: random.Random, tasks: int, actors: int) -> Iterator[Job]:
    """The work of a run, made as it is asked for."""
    troupe = Troupe(chance, actors, tasks)
    kinds = list(_KINDS)
    weights = [_KINDS[kind] for kind in kinds]
    for i in range(tasks):
        troupe.turn(i)
        job = troupe.job(i) if chance.random() < 0.3 else None
        if job is None:
            kind = chance.choices(kinds, weights)[0]
            job = _task(kind, chance, i)
        yield job


_KINDS = {
    "plain": 10, "usual": 10, "once": 6, "sum": 6, "sum_once": 3, "nested": 2, "large": 4, "large_once": 2, "length": 3,
    "puts": 2, "gets": 2, "three": 2, "stream": 2, "stream_once": 1, "stream_slowly": 1, "wrong": 2, "wrong_input": 1,
    "moody": 2, "cancel": 3, "cancel_tree": 1, "wait": 1, "zero": 1, "read_stream": 1, "make_actor": 0.3, "retire": 0.3,
    "environment": 0.3, "dynamic": 1, "cancel_inside": 1, "find": 1, "kill": 0.2, "keep": 1, "keep_check": 0.5,
    "leave": 0.1, "await": 0.5, "forget": 2, "forget_actor": 0.2,
}  # fmt: skip


def _task(kind: str, chance: random.Random, i: int) -> Job:  # noqa: C901  one branch for each kind
    size = chance.choice((1_000, 70_000, 200_000, 500_000))
    number = work.number(i)
    if kind == "plain":
        return Job(kind, work.plain_for_ever.remote(i), number)
    if kind == "usual":
        return Job(kind, work.plain_usual.remote(i), number)
    if kind == "once":
        return Job(kind, work.plain_once.remote(i), number, MAY_CRASH)
    if kind == "sum":
        return Job(kind, work.add.remote(work.plain_for_ever.remote(i), work.slow.remote(i, 0.001), 2), 2 * number + 2)
    if kind == "sum_once":
        return Job(kind, work.add_once.remote(work.plain_once.remote(i), 1), number + 1, MAY_CRASH)
    if kind == "nested":
        depth = chance.randint(1, 3)
        return Job(kind, work.nested.remote(i, depth), number * (depth + 1))
    if kind == "large":
        return Job(kind, work.large.remote(i, size), work.pattern(i, size))
    if kind == "large_once":
        return Job(kind, work.large_once.remote(i, size), work.pattern(i, size), MAY_CRASH)
    if kind == "length":
        put = chance.random() < 0.5
        data = skate.put(work.pattern(i, size)) if put else work.large.remote(i, size)
        return Job(kind, work.length.remote(i, data), size, put=put)
    if kind == "puts":
        return Job(kind, work.puts.remote(i, size), [work.pattern(i, size), number])
    if kind == "gets":
        boxed = [work.plain_for_ever.remote(i), skate.put(i), work.add.remote(skate.put(1), i)]
        return Job(kind, work.gets.remote(i, boxed), number + i + 1 + i + i)
    if kind == "three":
        return Job(kind, work.three.remote(i, size), [number, work.pattern(i, size), i])
    if kind.startswith("stream"):
        count = chance.randint(0, 9)
        read = count if chance.random() < 0.7 else chance.randint(0, count)
        made = getattr(work, kind).remote(i, count, size)
        return Job(kind, made, list(work.items(i, count, size)), MAY_CRASH if kind == "stream_once" else (), items=read)
    if kind == "wrong":
        return Job(kind, work.wrong.remote(i), (work.Expected, f"as expected of {i}"), must_fail=True)
    if kind == "wrong_input":
        return Job(
            kind, work.add.remote(work.wrong.remote(i), 1), (work.Expected, f"as expected of {i}"), must_fail=True
        )
    if kind == "moody":
        return Job(kind, work.moody.remote(i), number)
    if kind == "cancel":
        ref = work.slow.remote(i, chance.choice((0.0, 0.001, 0.02)))
        return _cancelled(kind, ref, number, chance, chance.random() < 0.3)
    if kind == "cancel_tree":
        return _cancelled(kind, work.parent_of_sleepers.remote(i, 0.005), 2 * number, chance, False)
    if kind == "wait":
        refs = [work.plain_for_ever.remote(i + n) for n in range(5)]
        skate.wait(refs, num_returns=2, timeout=0.001)
        return Job(kind, refs, [work.number(i + n) for n in range(5)])
    if kind == "zero":
        return Job(kind, [], [], keep=work.plain_for_ever.options(num_returns=0).remote(i))
    return _more(kind, chance, i, size)


def _more(kind: str, chance: random.Random, i: int, size: int) -> Job:  # noqa: C901  as above
    number, name = work.number(i), f"keeper-{chance.randint(0, 2)}"
    if kind == "read_stream":
        count, upto = chance.randint(0, 6), chance.randint(0, 8)
        return Job(kind, more.read_stream.remote(i, count, size, upto), min(count, upto))
    if kind == "make_actor":
        restarts = chance.choice((0, -1))
        ref = more.make_actor.remote(i, restarts)
        return Job(kind, ref, 2 * number + 1, () if restarts else (ActorDiedError,))
    if kind == "retire":
        return Job(kind, more.retire.remote(i), number)
    if kind == "environment":
        value = chance.choice(("a", "b"))
        ref = more.environment.options(runtime_env={"env_vars": {"CHAOS": value}}).remote(i)
        return Job(kind, ref, f"{value} {i}")
    if kind == "dynamic":
        return Job(kind, more.dynamic.remote(i, 4), [work.number(i + n) for n in range(4)])
    if kind == "cancel_inside":
        return Job(kind, more.cancel_inside.remote(i, chance.choice((0.0, 0.003))), True)
    if kind == "find":
        return Job(kind, more.find_and_call.remote(name), True)
    if kind == "kill":
        return Job(kind, more.kill_and_go.remote(name), "gone")
    if kind in ("keep", "keep_check"):
        keepers: Any = more.Keeper
        keeper = keepers.options(name=name, get_if_exists=True, lifetime="detached").remote()
        boxed = [skate.put(work.pattern(i, size)), work.large.remote(i, size)]
        ref = keeper.keep.remote(boxed, size) if kind == "keep" else keeper.check.remote()
        return Job(kind, ref, True, (ActorDiedError,))
    if kind == "leave":
        leavers: Any = more.Leaver
        leaver = leavers.remote()
        refs = [leaver.number.remote(i), leaver.go.remote(), leaver.number.remote(i)]
        return Job(kind, refs, None, more.LOST, True)
    if kind == "await":
        return Job(kind, [work.plain_for_ever.remote(i + n) for n in range(5)], [work.number(i + n) for n in range(5)])
    if kind == "forget":
        work.large.remote(i, size)
        work.stream.remote(i, 3, size)
        work.nested.remote(i, 1)
    else:
        tellers: Any = skate.remote(work.Teller)
        actor = tellers.options(max_restarts=chance.choice((0, 1))).remote()
        actor.ask.remote(i)
        actor.stream.options(num_returns="streaming").remote(i, 3, size)
    return Job(kind, [], [])


def _cancelled(kind: str, ref: Any, want: Any, chance: random.Random, force: bool) -> Job:
    if chance.random() < 0.5:
        skate.wait([ref], timeout=chance.choice((0, 0.002, 0.01)))
    skate.cancel(ref, force=force, recursive=chance.random() < 0.7)
    return Job(kind, ref, want, (TaskCancelledError, WorkerCrashedError) if force else (TaskCancelledError,))
