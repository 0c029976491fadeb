"""The wire between the hub and a worker: frozen types, packed payloads inside.

A frame is a u32 length (little endian) and a msgpack array of messages. Values cross as `Value`: bytes in the message,
or the place of a block in shared memory.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from skate.core.spec import ActorInfo, CallOptions, GroupSpec, TaskOptions

Key = Annotated[int, msgspec.Meta(ge=0)]
"""Checked where a message is decoded, at no cost worth naming."""


class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value outside of messages: in the arena, or spilled to a file. `key` is the object whose count keeps it."""

    key: Key
    offset: int
    """Of its block in the arena; below zero: it is in the file of `key`, and ``~offset`` is its checksum."""
    size: Key


Value = bytes | Stored
Keys = tuple[Key, ...]


class TaskSpec(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """One call: of a function, of an actor's constructor, or of an actor's method. Sent to a worker: run it."""

    task: Key
    function: bytes
    """Hash of the function or class; empty for a method call."""
    args: Value
    returns: int = 1
    deps: Keys = ()
    """Objects the call waits for; their values fill the arguments' slots."""
    refs: Keys = ()
    """Objects named inside the arguments; they live as long as the call."""
    actor: Key = 0
    method: str = ""
    """Empty with an `actor`: the constructor."""
    group: str = ""


# ---------------------------------------------------------------- hub to worker


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """The first message to a worker."""

    client: int
    salt: bytes
    namespace: str
    node: str
    path: list[str]
    folder: str
    job_environment: str
    environment: str
    session_folder: str
    job: int = 1
    """The number of the driver for which it works."""
    setup: str = ""
    """What the environments ask of a worker's process, as JSON; empty: nothing."""
    sites: bool = False
    """Whether to tell where objects are made."""


class Define(msgspec.Struct, frozen=True, array_like=True, tag=21, gc=False):
    """The pickle of a function or class that a coming task names by hash."""

    function: bytes
    blob: bytes
    name: str


class Using(msgspec.Struct, frozen=True, array_like=True, tag=22, gc=False):
    """The circumstances of the tasks that follow."""

    options: TaskOptions
    gpus: tuple[int, ...] = ()
    attempt: int = 0


class Host(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """The constructor call that follows makes this actor in the worker."""

    info: ActorInfo
    reconstructed: bool
    gpus: tuple[int, ...] = ()


class Calling(msgspec.Struct, frozen=True, array_like=True, tag=24, gc=False):
    """Options of the method call that follows, when they are not the usual ones."""

    options: CallOptions
    attempt: int = 0


class Feed(msgspec.Struct, frozen=True, array_like=True, tag=25, gc=False):
    """The values of the dependencies of the call that follows, or the next of them."""

    values: list[Value]
    start: int = 0
    """How many came before these."""


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=26, gc=False):
    """Stop the task: drop it when it waits, interrupt it when it runs."""

    task: Key


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The state of an object; see `rows.py`."""

    state: int
    value: Value = b""


class Values(msgspec.Struct, frozen=True, array_like=True, tag=27, gc=False):
    """The answer to `Get`: an outcome for each key asked for. Where the values are too many, the later ones are left
    out (READY, with no bytes) and are asked for again.
    """

    request: int
    outcomes: list[Outcome]


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=28, gc=False):
    """The answer to `Ask`."""

    request: int
    data: bytes
    failed: bool = False


class Yield(msgspec.Struct, frozen=True, array_like=True, tag=29, gc=False):
    """You block: give back the tasks that you have not begun."""


class Leave(msgspec.Struct, frozen=True, array_like=True, tag=30, gc=False):
    """Finish what you have and end."""


class Resume(msgspec.Struct, frozen=True, array_like=True, tag=31, gc=False):
    """The reader of a stream has caught up: items up to `upto` may be sent."""

    task: Key
    upto: int


class Grant(msgspec.Struct, frozen=True, array_like=True, tag=32, gc=False):
    """A block of the arena for the next large result of this capacity."""

    offset: int
    size: int


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """The answer to `Attach`: come in. The descriptor of the arena comes with it."""

    welcome: Welcome
    capacity: int
    """Bytes that the arena may take."""
    name: str
    """What the hub is called, if it stands alone."""


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=34, gc=False):
    """The other answer to `Attach`."""

    why: str


class Printed(msgspec.Struct, frozen=True, array_like=True, tag=35, gc=False):
    """What workers of a driver's job wrote, whole lines with their origin."""

    text: str
    to_stderr: bool


# ---------------------------------------------------------------- worker to hub


class Done(msgspec.Struct, frozen=True, array_like=True, tag=40, gc=False):
    """A call ended well; `took` is its time in microseconds.

    `at`: when it ended, in seconds of the monotonic clock; only the first result of a frame has it, here and below.
    """

    task: Key
    value: Value
    refs: Keys = ()
    took: int = 0
    at: float | None = None


class DoneMany(msgspec.Struct, frozen=True, array_like=True, tag=41, gc=False):
    """A call with another number of returns than one ended well."""

    task: Key
    values: list[Value]
    refs: list[Keys]
    took: int = 0
    at: float | None = None


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=42, gc=False):
    """A call ended with an error."""

    task: Key
    error: bytes
    retry: bool = False
    """Its options ask for another try after such an error."""
    cancelled: bool = False
    took: int = 0
    at: float | None = None


class Item(msgspec.Struct, frozen=True, array_like=True, tag=43, gc=False):
    """The next item of a stream."""

    task: Key
    value: Value
    refs: Keys = ()
    failed: bool = False


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=44, gc=False):
    """A task made in a worker."""

    spec: TaskSpec
    options: TaskOptions
    parent: Key = 0


class Call(msgspec.Struct, frozen=True, array_like=True, tag=45, gc=False):
    """An actor call made in a worker."""

    spec: TaskSpec
    options: CallOptions
    parent: Key = 0


class Export(msgspec.Struct, frozen=True, array_like=True, tag=46, gc=False):
    """A function or class that calls from this worker will name by hash."""

    function: bytes
    blob: bytes
    name: str


class Put(msgspec.Struct, frozen=True, array_like=True, tag=47, gc=False):
    """A value put in a worker."""

    key: Key
    value: Value
    refs: Keys = ()


class Get(msgspec.Struct, frozen=True, array_like=True, tag=48, gc=False):
    """Answer when `count` of `keys` are ready, one of them failed (unless `count` is given), or time is up.

    `values` asks for the values too. `blocks`: the worker can do nothing else meanwhile.
    """

    request: int
    keys: list[Key]
    count: int
    timeout: float | None
    values: bool
    blocks: bool


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=49):
    """Any rarer question: the name of a hub's method and its packed arguments."""

    request: int
    verb: str
    data: bytes


class Hold(msgspec.Struct, frozen=True, array_like=True, tag=50, gc=False):
    """The worker keeps references to these objects (key), or views of their memory (``~key``)."""

    keys: list[int]


class Release(msgspec.Struct, frozen=True, array_like=True, tag=51, gc=False):
    """The worker dropped its last reference to these."""

    keys: list[int]


class Seen(msgspec.Struct, frozen=True, array_like=True, tag=58, gc=False):
    """The worker has read these out of a `Values`; of those it keeps views of, a `Hold` has told."""

    keys: list[int]


class Back(msgspec.Struct, frozen=True, array_like=True, tag=52, gc=False):
    """Tasks that were sent to the worker and that it has not begun."""

    tasks: list[Key]


class Leaving(msgspec.Struct, frozen=True, array_like=True, tag=53, gc=False):
    """The worker ends on purpose after this; `final` forbids an actor's restart."""

    reason: str
    final: bool


class Next(msgspec.Struct, frozen=True, array_like=True, tag=54, gc=False):
    """The next item of the stream shall be the object `key`."""

    stream: Key
    key: Key


class CloseStream(msgspec.Struct, frozen=True, array_like=True, tag=55, gc=False):
    """Nobody will read on."""

    stream: Key


class Unused(msgspec.Struct, frozen=True, array_like=True, tag=57, gc=False):
    """Blocks that the worker was granted and will not use."""

    offsets: list[int]


class Site(msgspec.Struct, frozen=True, array_like=True, tag=59, gc=False):
    """The worker made these objects at this place of the program."""

    keys: list[Key]
    text: str


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=56, gc=False):
    """A worker is up."""

    pid: int
    problem: str = ""
    """It is not, and ends: why its environment cannot be used."""


ToWorker = (
    TaskSpec
    | Welcome
    | Define
    | Using
    | Host
    | Calling
    | Feed
    | Cancel
    | Values
    | Answer
    | Yield
    | Leave
    | Resume
    | Grant
    | Accepted
    | Refused
    | Printed
)
ToHub = (
    Done
    | DoneMany
    | Failed
    | Item
    | Submit
    | Call
    | Export
    | Put
    | Get
    | Ask
    | Hold
    | Release
    | Seen
    | Back
    | Leaving
    | Next
    | CloseStream
    | Unused
    | Site
    | Hello
)


class Attach(msgspec.Struct, frozen=True, array_like=True, tag=60):
    """The first and only message of a program that wants to be a driver of this session, before it is let in."""

    version: str
    python: str
    namespace: str
    environment: str
    """Of its whole job, as JSON."""
    path: list[str]
    folder: str
    log: bool
    """Whether it wants to see what its workers print."""
    entrypoint: str
    driver: bool = True
    """False: somebody who looks in, and counts as no job."""
    submission: str = ""
    """Of a submitted job, its id."""


to_door = msgspec.msgpack.Decoder(list[Attach])
to_worker = msgspec.msgpack.Decoder(list[ToWorker])
to_hub = msgspec.msgpack.Decoder(list[ToHub])
encoder = msgspec.msgpack.Encoder()


class SpawnRequest(msgspec.Struct, frozen=True, array_like=True):
    """What `Ask("spawn")` carries."""

    spec: TaskSpec
    info: ActorInfo


def encode_any(value: Any) -> bytes:
    """msgpack of plain data, for `Ask` and `Answer`."""
    return encoder.encode(value)


decode_any = msgspec.msgpack.Decoder().decode
decode_spawn = msgspec.msgpack.Decoder(SpawnRequest).decode
decode_reserve = msgspec.msgpack.Decoder(tuple[Key, GroupSpec]).decode
decode_await = msgspec.msgpack.Decoder(tuple[Key, Key, bytes]).decode
decode_info = msgspec.msgpack.Decoder(ActorInfo).decode
