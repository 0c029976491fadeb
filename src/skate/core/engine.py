"""The contract that every engine keeps, and the only global: the engine of this process.

Values cross as Python objects: an engine packs them as it needs. Nothing above this floor asks which engine runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from skate.core.nodes import NodeSpec
from skate.core.spec import ActorInfo, ActorOptions, CallOptions, Definition, GroupSpec, MethodInfo, TaskOptions

if TYPE_CHECKING:
    from skate.core.refs import ObjectRef

Ready = Callable[[], None]
"""Called once on any thread when an object is ready; must not block. ``get`` with timeout 0 then gives the value."""


class Context(NamedTuple):
    """Where the calling code runs."""

    namespace: str
    node: str
    worker: str
    task: int = 0
    """0 in a driver outside of any task."""
    task_name: str = ""
    function_name: str = ""
    attempt: int = 0
    actor: ActorInfo | None = None
    reconstructed: bool = False
    resources: Mapping[str, float] = {}
    gpus: Sequence[int | str] = ()
    environment: str = ""
    driver: bool = True
    job: int = 1
    """The number of the driver that all this belongs to."""
    group: int = 0
    """The placement group; 0: none."""
    capture: bool = False
    """What is started here goes into that group too."""


class Engine(Protocol):
    """What the public API asks of an engine. Errors are those of `skate.exceptions`."""

    name: str
    address: str
    """How `RayContext` names the session: ``"local"``, or where the hub is that it was attached to."""
    folder: str
    """The session's folder, if it is there already."""

    def submit(self, function: Definition, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions) -> Any:
        """Run a function: one `ObjectRef`, a list of them, None for no return, or an `ObjectRefGenerator`."""

    def spawn(
        self,
        definition: Definition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: ActorOptions,
        methods: tuple[MethodInfo, ...],
    ) -> ActorInfo:
        """Start an actor; the caller's handle counts as one reference. A taken name raises ValueError."""

    def call(self, actor: int, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Any:
        """Call an actor's method, in order of submission per caller; returns as `submit` does."""

    def find(self, name: str, namespace: str) -> ActorInfo:
        """A named actor that lives; being found does not keep it alive. ValueError when there is none."""

    def kill(self, actor: int, no_restart: bool) -> None:
        """End an actor's process at once."""

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a copy of `value`."""

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values in order; raises the first error found; GetTimeoutError after `timeout` seconds."""

    def wait(
        self, refs: Sequence[ObjectRef[Any]], count: int, timeout: float | None, fetch: bool = True
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Split into at most `count` ready ones and the rest, both in the given order.

        Where there are several machines, `fetch` brings the values to this one meanwhile.
        """

    def on_ready(self, ref: ObjectRef[Any], callback: Ready) -> None:
        """Have `callback` called once when `ref` is ready, which may be at once."""

    def asyncio_future(self, ref: ObjectRef[Any]) -> Any:
        """A future of the running event loop that gets the value or the error."""

    def asyncio_ready(self, ref: ObjectRef[Any]) -> Any:
        """A future of the running event loop that gets None when `ref` is ready, whatever came of it."""

    def next_item(self, stream: int) -> ObjectRef[Any]:
        """Name the next item of a stream; it becomes ready with a value, an error, or as the end (see `is_end`)."""

    def is_end(self, item: ObjectRef[Any]) -> bool:
        """Whether a ready `item` of `next_item` lies past the stream's end: it has no value."""

    def borrow(self, key: int) -> None:
        """One more reference to `key` lives in this process."""

    def carry(self, actor: int) -> Any:
        """What travels with an actor's handle in place of its key; None: the key does."""

    def adopt(self, carried: Any) -> int:
        """A handle came with what `carry` gave: its key, counted once more."""

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Cancel the task that makes `ref`; harmless when it has ended."""

    def context(self) -> Context:
        """Where the calling code runs."""

    def is_cancelled(self) -> bool:
        """Whether the calling actor task was cancelled."""

    def exit_actor(self) -> None:
        """End the calling actor for good; raises on its way out."""

    def reserve(self, spec: GroupSpec) -> int:
        """A new placement group, which gets its resources when they are free. A taken name raises ValueError."""

    def unreserve(self, group: int) -> None:
        """Remove a placement group: what runs in it is ended, what waits for it fails. Harmless when it is gone."""

    def await_group(self, group: int, value: Any) -> ObjectRef[Any]:
        """An object that gets this value once the group has all its resources, and fails if it is removed."""

    def find_group(self, name: str, namespace: str) -> int:
        """A named placement group that was not removed. ValueError when there is none."""

    def group(self, group: int) -> dict[str, Any] | None:
        """A placement group's row of the table ``placement_groups``; None when it is not known."""

    def state(self, kind: str) -> list[dict[str, Any]]:
        """Rows of a table: ``nodes``, ``actors``, ``names``, ``tasks``, ``workers``, ``objects``, ``events``, ``jobs``,
        ``placement_groups``, ``session`` and others; ValueError for one that there is not.

        Times are milliseconds since the epoch, errors are packed.
        """

    def locations(
        self, refs: Sequence[ObjectRef[Any]], timeout: float | None, ask: bool
    ) -> list[dict[str, Any] | None]:
        """Where objects lie: ``node_ids``, ``object_size``, ``did_spill``; None for one that nobody knows.

        `ask`: of others too, within `timeout` seconds; GetTimeoutError after that.
        """

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """``(total, free)`` of the cluster."""

    def add_node(self, spec: NodeSpec) -> str:
        """A virtual node joins; its id in hex. RuntimeError in a task or an actor."""

    def remove_node(self, node: str) -> None:
        """The node of this id goes, with its workers and what lay there alone, before this returns.

        ValueError: there is no such node, or it is the driver's own. RuntimeError in a task or an actor.
        """

    def close(self) -> None:
        """End every process and free every byte of the session."""


_current: Engine | None = None
_starter: Callable[[], Engine] | None = None
_finder: Callable[[], Engine | None] | None = None


def current() -> Engine:
    """The engine of this process; starts the default one on first use, as Ray does."""
    engine = _current
    if engine is None:
        if _starter is None:
            raise RuntimeError("skate is not initialised in this process: call skate.init()")
        engine = _starter()
    return engine


def running() -> Engine | None:
    """The engine of this process, or None; in a worker of another system's, the one that the worker belongs to."""
    return _current or (_finder() if _finder is not None else None)


def use(engine: Engine | None) -> None:
    """Make `engine` the one of this process."""
    global _current
    _current = engine


def start_with(starter: Callable[[], Engine] | None) -> None:
    """What `current` calls when no engine runs."""
    global _starter
    _starter = starter


def find_with(finder: Callable[[], Engine | None]) -> None:
    """What `running` asks when no engine was started here."""
    global _finder
    _finder = finder
