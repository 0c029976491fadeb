"""Plans of faults: what is to go wrong, and when, as a function of a seed and of counts. Pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from skate.testing.doom import HOWS

WHENS = ("begin", "end", "any")


@dataclass(frozen=True)
class Kill:
    """End worker number `worker` (1: the first that is sent a call under the plan) at its call number `task`."""

    worker: int
    task: int
    how: str = "SIGKILL"
    when: str = "begin"

    def __post_init__(self) -> None:
        _check_choice("how", self.how, HOWS)
        _check_choice("when", self.when, WHENS)
        if self.worker < 1 or self.task < 1:
            raise ValueError(f"Workers and calls count from 1: worker={self.worker}, task={self.task}.")


@dataclass(frozen=True, kw_only=True)
class FaultPlan:
    """What is to go wrong. ``..._every=n``: after each n/2 to 3n/2 chances, evenly drawn; 0: never."""

    seed: int = 0
    kill_every: int = 0
    """Calls sent to workers between two deaths."""
    how: tuple[str, ...] = ("SIGKILL", "SIGSEGV", "oom", "exit")
    """Ways to die; ``oom``: as the kernel's out-of-memory killer does it, by SIGKILL; ``exit``: ``os._exit``."""
    when: tuple[str, ...] = WHENS
    """``begin``: in place of the call; ``end``: when it has run, and its result is lost; ``any``: by a signal that
    arrives when it arrives. Methods of actors know no ``end``, and ``exit`` no ``any``: they mean ``begin``."""
    spare_actors: bool = False
    """Kill no worker that hosts an actor."""
    kills: tuple[Kill, ...] = ()
    drop_every: int = 0
    """Calls sent to workers between two losses of an object in shared memory."""
    fail_spill_every: int = 0
    fail_restore_every: int = 0
    delay_spill_every: int = 0
    spill_delay: float = 0.02
    """Seconds."""
    stall_every: int = 0
    """Calls sent to workers between two stalls of a worker's link: what is sent to it arrives later, in order."""
    stall: float = 0.02
    """Seconds."""
    node_every: int = 0
    """Calls sent to workers between two changes of the virtual nodes: one is removed, or one like it comes back."""
    least_nodes: int = 1
    """So many stay, the driver's own among them, which is never removed."""

    def __post_init__(self) -> None:
        for name in ("how", "when"):
            values: tuple[str, ...] = getattr(self, name)
            if isinstance(values, str) or not values:
                raise ValueError(f"{name}={values!r}: give a tuple of names.")
            for value in values:
                _check_choice(name, value, HOWS if name == "how" else WHENS)
        if self.least_nodes < 1:
            raise ValueError(f"least_nodes={self.least_nodes}: the driver's own node is never removed.")
        kinds = ("kill", "drop", "stall", "node", "fail_spill", "fail_restore", "delay_spill")
        for name in (f"{kind}_every" for kind in kinds):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative; 0 means never.")

    def moments(self, kind: str) -> Iterator[tuple[int, str, str]]:
        """When a kind of fault is due: ``(count, how, when)``, without end; `kind` as in `schedule`."""
        every: int = getattr(self, f"{kind}_every")
        if every <= 0:
            return
        chance = random.Random(f"{self.seed}:{kind}")
        count = 0
        while True:
            count += max(1, chance.randint(every // 2, every + every // 2))
            yield count, chance.choice(self.how), chance.choice(self.when)

    def schedule(self, kind: str = "kill", upto: int = 10_000) -> list[tuple[int, str, str]]:
        """The faults of a kind (``kill``, ``drop``, ``fail_spill``, ``fail_restore``, ``delay_spill``, ``stall``,
        ``node``) among the first `upto` chances: ``(count, how, when)``; `how` and `when` matter for kills alone.
        """
        return list(itertools.takewhile(lambda moment: moment[0] <= upto, self.moments(kind)))


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r} is not known. Known: {', '.join(known)}.")


@dataclass(frozen=True)
class Fault:
    """A fault that was really done."""

    kind: str
    count: int
    """Which call, spill or restore it was, counted since the plan came into force."""
    seconds: float
    """Since the plan came into force."""
    what: str
    task: int = 0
    """The key of the call that a kill was aimed at."""

    def __str__(self) -> str:
        return f"{self.seconds:8.3f} s  {self.kind} at {self.count}: {self.what}"


class Clockwork:
    """A kind of fault: counts the chances and says which are to be taken."""

    def __init__(self, plan: FaultPlan, kind: str) -> None:
        self.count = 0
        self._moments = plan.moments(kind)
        self._next = next(self._moments, None)

    def due(self) -> tuple[str, str] | None:
        """Count a chance; ``(how, when)`` if it is to be taken."""
        self.count += 1
        if self._next is None or self._next[0] != self.count:
            return None
        _, how, when = self._next
        self._next = next(self._moments, None)
        return how, when
