"""The hub's records. One `Row` is an object together with the call that makes it, so that a task costs one record.

A row is *counted*: references in the driver, workers that hold it, values that contain it, and calls that take it as
an argument count one each. It goes when its count is zero and no call is about to fill it. Handles of an actor count on
the actor's row in the same way, and so do views of a stored array.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from skate.core import ids, nodes
from skate.core.placement import Where
from skate.core.resources import UNIT
from skate.core.spec import ActorInfo, Resources
from skate.engines.local.history import Card

if TYPE_CHECKING:
    from skate.engines.local.jobs import Job
    from skate.engines.local.link import Link
    from skate.engines.local.messages import TaskSpec

METHOD, PUT, GROUP = -1, -2, -3
"""Makers that are no tasks: an actor's method; `put`; a placement group, which is the row's `options`."""
PENDING, READY, FAILED, END = range(4)
"""States of an object; END: an item past a stream's end."""
HEAD = 1
"""The number of the driver's own node."""


class Row(msgspec.Struct, gc=False):
    """An object, and the call that makes it."""

    state: int = PENDING
    count: int = 1
    value: Any = None
    """bytes or Stored; of a FAILED row the packed error."""
    refs: tuple[int, ...] = ()
    """Keys inside the value, each counted."""
    spec: TaskSpec | None = None
    """The call, until it has ended. Only the first return of a call has it."""
    options: Any = None
    owner: Worker | None = None
    """Who made the call; None: the driver."""
    parent: int = 0
    """The task inside which the call was made."""
    maker: int = 0
    """Of a further return, or an item of a stream: its task; else METHOD, PUT, or 0: a task of the same key."""
    made: float = 0.0
    """When the call was made, on the monotonic clock."""
    waiters: list[Callable[[Row], None]] | None = None
    worker: Worker | None = None
    missing: int = 0
    """Dependencies that are not ready."""
    attempt: int = 0
    cancelled: bool = False
    shortage: Shortage | None = None
    """Of a task that the memory monitor has ended, and that is tried again."""
    actor: Actor | None = None
    """Of the row of an actor itself."""


class Doom(NamedTuple):
    """Why the memory monitor ends a worker."""

    why: str
    shortage: bool
    """Memory ran out; otherwise the call took more than it had asked for."""
    counts: bool
    """Whether that uses up one of the call's attempts."""


class Shortage:
    """What the memory monitor has done to a task so far."""

    __slots__ = ("ended", "pardoned")

    def __init__(self) -> None:
        self.ended = 0
        self.pardoned = 0
        """How many of these ends do not count as attempts."""


class Worker:
    """A worker process, as the hub sees it."""

    __slots__ = (
        "actor",
        "aside",
        "base",
        "batch",
        "blocked",
        "card",
        "client",
        "doom",
        "environment",
        "family",
        "gpus",
        "granted",
        "held",
        "idle_since",
        "is_async",
        "job",
        "known",
        "last",
        "leaving",
        "lingering",
        "link",
        "low",
        "node",
        "options",
        "outlaw",
        "pid",
        "place",
        "progress",
        "progress_seen",
        "questions",
        "running",
        "shown",
        "spawned",
        "tail",
        "taken",
        "up",
    )

    def __init__(self, client: int, environment: str, link: Link, node: Node) -> None:
        self.client = client
        self.environment = environment
        self.link = link
        self.node = node
        self.pid = 0
        self.up = False
        self.running: dict[int, Row] = {}
        """Calls sent and not ended, in order; a plain worker runs the first."""
        self.lingering: dict[int, TaskSpec] = {}
        """Calls given up while they run on: their inputs stay where they are until they end."""
        self.known: set[bytes] = set()
        self.spawned: set[Actor] = set()
        """Living actors that the actor it hosts has made, and that end with it."""
        self.held: set[int] = set()
        self.shown: dict[int, int] = {}
        """Stored values that it was sent for a `get` and has not said it has read: each is a view."""
        self.options: Any = None
        """What the worker was last told to be `Using`."""
        self.gpus: tuple[int, ...] = ()
        self.family: Family | None = None
        """The family of tasks that the worker is leased to."""
        self.taken: Resources = ()
        self.place: Place = node
        """Where it has taken them."""
        self.batch = 0
        """Calls it was sent since it was leased."""
        self.blocked = 0
        self.questions: set[Any] = set()
        """What its main thread waits for."""
        self.last = b""
        """The function it was sent last."""
        self.low = 0
        """Calls in it at which it wants more."""
        self.progress = 0
        """Calls it has ended."""
        self.progress_seen = -1
        self.actor: Actor | None = None
        self.granted: list[tuple[int, int]] = []
        """Blocks of the arena that it may fill: offset and size."""
        self.aside: dict[int, int] = {}
        """Sizes, by key, of values that it writes to files."""
        self.leaving: tuple[str, bool] | None = None
        self.idle_since = 0.0
        self.outlaw = ""
        """Why nothing more is taken from it: it sent what no worker sends, and is being ended."""
        self.is_async = False
        """Hosts an actor with coroutines, which a cancel can stop."""
        self.tail: deque[str] = deque(maxlen=20)
        """The last lines it wrote."""
        self.base = 0
        """Bytes that it had when it was given its call; kept where ``memory=`` is enforced."""
        self.card = Card(client, node.hex)
        """What remains of it when it has ended."""
        self.doom: Doom | None = None
        """Why the memory monitor ends it."""
        self.job: Job | None = None
        """Of which attached driver it is; None: of the hub's own."""


class Place:
    """Something with resources for calls: a node, or a part of one that a placement group has reserved."""

    __slots__ = ("free", "gpus", "node", "total")

    def __init__(self, total: dict[str, int], gpus: Iterable[int]) -> None:
        self.node: Node
        self.total = dict(total)
        self.free = dict(total)
        self.gpus = dict.fromkeys(gpus, UNIT)
        """What each GPU has left, by its number: a fraction must fit on one of them."""


class Node(Place):
    """A machine, as far as calls can tell: its resources, its labels, its workers."""

    __slots__ = ("address", "death", "hex", "idle", "key", "labels", "name", "starting")

    def __init__(self, key: int, total: dict[str, int], labels: dict[str, str] | None = None, name: str = "") -> None:
        super().__init__(total, range(total.get("GPU", 0) // UNIT))
        self.node = self
        self.key = key
        self.hex = ids.node_hex(key)
        self.address = nodes.address(key)
        self.name = name
        self.death = ""
        """Why it is no more, in words; empty while it is there."""
        self.labels = {"ray.io/node-id": self.hex, **(labels or {})}
        self.idle: dict[str, list[Worker]] = {}
        """By environment."""
        self.starting: dict[str, int] = {}


class Family:
    """Tasks that any one worker of a kind can run: same resources, same environment, same wishes."""

    __slots__ = (
        "environment",
        "infeasible",
        "least",
        "need",
        "only",
        "picky",
        "places",
        "priority",
        "promised",
        "queue",
        "spreads",
        "tiers",
        "turn",
        "where",
        "workers",
    )

    def __init__(
        self, need: Resources, environment: str, least: Resources | None, where: Where | None, priority: int
    ) -> None:
        self.need = need
        self.environment = environment
        self.least = least
        """Of actors: what a node must have in total for one to be placed there."""
        self.where = where
        self.priority = priority
        self.queue: deque[Row] = deque()
        self.workers: dict[Worker, None] = {}
        """Those leased to it, in that order: a set would have another in each run."""
        self.places: tuple[Place, ...] = ()
        """Those that could run it if they were empty, the preferred ones first."""
        self.tiers: tuple[tuple[Place, ...], ...] = ((),)
        """The same; those of one tier are equally good."""
        self.only: Place | None = None
        """The one place of calls that leave nothing to choose."""
        self.infeasible = False
        self.picky = False
        """Its calls need a look before they wait: nothing can run them, or they must begin at once."""
        self.spreads = False
        """Its calls go to several places in turn."""
        self.turn = 0
        """The place that has its turn."""
        self.promised: dict[Place, int] = {}
        """Of one that spreads: queued calls that wait for a worker there."""


class Actor:
    """An actor, as the hub sees it."""

    __slots__ = (
        "alive",
        "cause",
        "constructed",
        "dead",
        "definition",
        "ending",
        "info",
        "key",
        "maker",
        "namespace",
        "pending",
        "queues",
        "restarts",
        "spec",
        "worker",
    )

    def __init__(self, info: ActorInfo, spec: TaskSpec, namespace: str) -> None:
        self.info = info
        self.key = info.actor
        self.spec = spec
        self.namespace = namespace
        self.maker: Worker | None = None
        """Hosts the actor that made this one, which ends with it."""
        self.worker: Worker | None = None
        self.queues: dict[Worker | None, deque[Row]] = {}
        """Calls that cannot be sent yet, by caller, in order."""
        self.pending = 0
        self.restarts = 0
        self.constructed = False
        self.dead = False
        self.ending = False
        """Out of scope: ends when its calls are done."""
        self.cause: bytes = b""
        """The packed error that calls get once it is dead."""


class Stream:
    """Items of a streaming call between their maker and their reader."""

    __slots__ = ("closed", "ended", "held_back", "items", "made", "promised", "read", "skip")

    def __init__(self) -> None:
        self.items: deque[Row] = deque()
        """Made and not yet asked for, so that they have no key yet."""
        self.promised: deque[int] = deque()
        """Keys asked for and not yet made."""
        self.ended = False
        self.closed = False
        self.made = 0
        self.read = 0
        self.skip = 0
        """Items that a new attempt makes again, and that are not delivered twice."""
        self.held_back = False
        """Its maker waits for its reader, and has lent its CPUs."""
