"""What a worker may say: its messages are checked where they name things, before the hub acts on them.

A worker names its results itself, lays values down in shared memory itself, and reports how its calls ended. All of
that is believed only where that worker may say it: a key must be its own and new, a block one that it was granted, a
call one that it was sent. Whatever else it sends is `Nonsense`, and it is ended. What only may be out of date (an
object that is gone, a reference it no longer holds) is not.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import replace

from skate.core.groups import STRATEGIES
from skate.core.ids import CLIENT_SHIFT, IdSource
from skate.core.resources import UNIT
from skate.core.spec import GroupSpec, Resources, TaskOptions
from skate.engines.local.messages import Done, DoneMany, Export, Get, Item, SpawnRequest, Stored, TaskSpec
from skate.engines.local.rows import FAILED, Row, Worker

if TYPE_CHECKING:
    from skate.engines.local.scheduler import Scheduler

MOST_RETURNS = 1 << 20
FARTHEST_AHEAD = 1 << 40
"""Items that a stream may be allowed to run ahead."""
LONGEST_WAIT = 100 * 365 * 86_400.0
"""Seconds; who gives more means for ever."""
MOST_UNITS = 1 << 62
USUAL = TaskOptions().resources


nowhere = IdSource(0)
"""Keys that no client has, for what a worker names and nobody knows."""


class Nonsense(Exception):
    """A worker sent what no worker of ours sends; the text goes on after "it"."""


class Knowing(Protocol):
    """The parts of the hub that are looked at."""

    rows: dict[int, Row]
    definitions: dict[bytes, Export]
    scheduler: Scheduler

    def own_block(self, worker: Worker, value: Any) -> None:
        """Take over a block that the worker was granted; `Nonsense` if it was not."""

    def discard(self, value: Any) -> None:
        """Free the block of a value."""

    def lost(self, key: int) -> bytes:
        """The packed error of an object that nobody knows."""


def new_keys(hub: Knowing, worker: Worker, first: int, count: int = 1) -> None:
    """Keys for new objects: of the worker's own numbers, and in use for nothing else."""
    if first >> CLIENT_SHIFT != worker.client or (first + count - 1) >> CLIENT_SHIFT != worker.client:
        raise Nonsense(f"named a new object by the key {first}, which is not one of its own")
    rows = hub.rows
    for key in range(first, first + count):
        if key in rows:
            raise Nonsense(f"named a new object by the key {key}, which another object has")


def stored(hub: Knowing, worker: Worker, value: Any, key: int) -> None:
    """A value for the object `key`: in the message, or in a block that the worker was granted."""
    if type(value) is Stored:
        if value.key != key:
            raise Nonsense(f"laid a value down for the object {value.key} and sent it as {key}")
        hub.own_block(worker, value)


def call(hub: Knowing, worker: Worker, spec: TaskSpec, backpressure: int) -> TaskSpec:
    """A call made in a worker, as the hub may take it."""
    rows, args, count = hub.rows, spec.args, spec.returns
    if count != 1 or spec.task >> CLIENT_SHIFT != worker.client or spec.task in rows:  # the common case, in line
        if not -2 <= count <= MOST_RETURNS:
            raise Nonsense(f"made a call with {count} returns (the most is {MOST_RETURNS:,})")
        new_keys(hub, worker, spec.task, max(1, count))
    if backpressure and not 0 <= backpressure <= FARTHEST_AHEAD:
        raise Nonsense(f"made a call that may run {backpressure} items ahead")
    for key in spec.deps:
        row = rows.get(key)
        if row is not None and row.actor is not None:
            raise Nonsense("gave a call an actor for the value of an argument")
    if type(args) is Stored:
        new_keys(hub, worker, args.key)
        if spec.task <= args.key < spec.task + max(1, count):
            raise Nonsense("gave a call's arguments the key of its result")
        hub.own_block(worker, args)
    return _inputs(hub, spec) if spec.deps or spec.refs else spec


def _inputs(hub: Knowing, spec: TaskSpec) -> TaskSpec:
    """The call, naming only objects that there are.

    A key that names nothing now could be given to an object later, which must not be counted less when the call ends.
    """
    rows = hub.rows
    if any(key not in rows for key in spec.deps):
        spec = replace(spec, deps=tuple(key if key in rows else _lost(hub, key) for key in spec.deps))
    if any(key not in rows for key in spec.refs):
        spec = replace(spec, refs=tuple(key for key in spec.refs if key in rows))
    return spec


def _lost(hub: Knowing, key: int) -> int:
    """A row with the error of an unknown object, under a key that nobody else will ever use."""
    alias = nowhere.take()
    hub.rows[alias] = Row(FAILED, 0, hub.lost(key))
    return alias


def task(hub: Knowing, worker: Worker, spec: TaskSpec, options: Any) -> TaskSpec:
    """A `Submit`: a call of a function."""
    if spec.actor or spec.method:
        raise Nonsense("submitted a call of an actor as a task")
    if spec.function not in hub.definitions:
        raise _unknown(spec.function)
    if options.resources != USUAL or options.environment:
        _resources(options.resources)
    return call(hub, worker, spec, options.backpressure)


def method(hub: Knowing, worker: Worker, spec: TaskSpec, options: Any) -> TaskSpec:
    """A `Call`: of an actor's method."""
    if not spec.method:
        raise Nonsense("called an actor without the name of a method")
    return call(hub, worker, spec, options.backpressure)


def spawn(hub: Knowing, worker: Worker, request: SpawnRequest) -> TaskSpec:
    """An actor made in a worker."""
    spec, info = request.spec, request.info
    if not spec.task == spec.actor == info.actor or spec.method or spec.returns != 1:
        raise Nonsense("made an actor with a call that is no constructor's")
    if spec.function not in hub.definitions:
        raise _unknown(spec.function)
    _resources(info.options.resources)
    _resources(info.options.placement)
    return call(hub, worker, spec, 0)


def group(hub: Knowing, worker: Worker, key: int, spec: GroupSpec) -> None:
    """A placement group made in a worker."""
    new_keys(hub, worker, key)
    if key in hub.scheduler.groups.live or key in hub.scheduler.groups.gone:
        raise Nonsense(f"made a placement group with the key {key}, which another one has")
    if spec.strategy not in STRATEGIES or len(spec.selectors) not in (0, len(spec.bundles)):
        raise Nonsense("made a placement group that cannot be")
    if not spec.bundles or not all(spec.bundles):
        raise Nonsense("made a placement group with nothing in it")
    for bundle in spec.bundles:
        _resources(bundle)


def _unknown(function: bytes) -> Nonsense:
    return Nonsense(f"called the function {function.hex()[:32]}, which it has not sent")


def _resources(need: Resources) -> None:
    if len({name for name, _ in need}) < len(need) or not all(0 < units <= MOST_UNITS for _, units in need):
        raise Nonsense(f"asked for impossible resources: {need}")
    gpus = dict(need).get("GPU", 0)
    if gpus > UNIT and gpus % UNIT:
        raise Nonsense(f"asked for {gpus / UNIT:g} GPUs")


def definition(export: Export) -> None:
    """An `Export`: what others call by its hash must be what was hashed."""
    if hashlib.blake2b(export.blob, digest_size=16).digest() != export.function:
        raise Nonsense("sent a function under a hash that is not its own")


def result(hub: Knowing, worker: Worker, message: Done, spec: TaskSpec | None) -> None:
    """A `Done` that is not of the plainest kind: of a call that the worker runs, with one return."""
    if message.task not in worker.running:
        raise not_its_call(message.task)
    if spec is not None and spec.returns != 1:
        raise Nonsense(f"sent one result of a call with {spec.returns} returns")
    stored(hub, worker, message.value, message.task)


def results(hub: Knowing, worker: Worker, message: DoneMany) -> None:
    """A `DoneMany`: as many values as the call has returns."""
    row = worker.running.get(message.task)
    if row is None:
        raise not_its_call(message.task)
    values, spec = message.values, row.spec
    right = len(values) == len(message.refs)
    if spec is not None:
        right = right and spec.returns != 1 and len(values) == (spec.returns if spec.returns >= 0 else 1)
    if not right:
        raise Nonsense(f"sent {len(values)} values as the result of a call with another number of returns")
    for number, value in enumerate(values):
        try:
            stored(hub, worker, value, message.task + number)
        except Nonsense:
            for before in values[:number]:
                hub.discard(before)  # they are nobody's any more
            raise


def item(hub: Knowing, worker: Worker, message: Item) -> None:
    """An `Item`: of a stream that the worker makes."""
    row = worker.running.get(message.task)
    if row is None or (row.spec is not None and row.spec.returns != -1):
        raise not_its_call(message.task)
    hub.own_block(worker, message.value)


def not_its_call(task: int) -> Nonsense:
    """A report about a call that the worker was not sent, or has ended before."""
    return Nonsense(f"reported on the call {task}, which it was not running")


def question(message: Get) -> Get:
    """A `Get`: one that can be answered."""
    if not 0 <= message.count <= len(message.keys):
        raise Nonsense(f"asked for {message.count} of {len(message.keys)} objects")
    timeout = message.timeout
    if timeout is not None and not timeout <= LONGEST_WAIT:
        if math.isnan(timeout):
            raise Nonsense("asked for an answer within nan seconds")
        return replace(message, timeout=None)
    return message


def room(worker: Worker, key: Any, size: Any) -> tuple[int, int]:
    """For which object a worker asks room, and how much. It may write its file, so it must be one that it makes."""
    if type(key) is not int or type(size) is not int or not 0 < size < MOST_UNITS:
        raise Nonsense(f"asked for room for {size!r} bytes of {key!r}")
    if key >> CLIENT_SHIFT != worker.client and not any(
        spec is None or task <= key < task + max(1, spec.returns)
        for task, spec in ((task, row.spec or worker.lingering.get(task)) for task, row in worker.running.items())
    ):
        raise Nonsense(f"asked for room for the object {key}, which it is not to make")
    return key, size
