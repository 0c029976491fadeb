"""Actors: their mailboxes, lives and ends."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any

from skate.core import ids
from skate.core.call_options import is_coroutine
from skate.core.calls import PackedCall
from skate.core.spec import ActorInfo
from skate.engines.inline.groups import settle
from skate.engines.inline.lanes import Loop, Threads, has_coroutines
from skate.engines.inline.machine import Amounts
from skate.engines.inline.records import Call, Outcome, current, failure
from skate.engines.inline.running import ActorExit, ActorGoneError, arguments, call_error, run
from skate.engines.inline.session import Session
from skate.engines.inline.streams import Stream
from skate.engines.inline.unpacking import read
from skate.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

STARTING, ALIVE, DEAD = "PENDING_CREATION", "ALIVE", "DEAD"


class Actor:
    """An instance in this process, and the calls that wait for it.

    One without a lane of its own runs its calls in the thread that makes them, one at a time: while one runs, others
    queue, and the thread that runs it runs them next.
    """

    def __init__(self, session: Session, info: ActorInfo, cls: type, packed: PackedCall, environment: str) -> None:
        options = info.options
        self.session = session
        self.info = info
        self.key = info.actor
        self.cls = cls
        self.packed = packed
        self.environment = environment
        self.setup = session.machine.surroundings.setup_of(environment)
        self.state = STARTING
        self.instance: Any = None
        self.death: Outcome | None = None
        """What calls get once it is dead."""
        self.restarts = 0
        self.leaving = False
        """Whether a call asked for its end by exit_actor."""
        self._starting: asyncio.Future[None] | None = None
        """An ``async def`` constructor that runs."""
        self.maker: Actor | None = None
        """The actor that made this one, which ends with it."""
        self.children: dict[int, Actor] = {}
        """Living actors that this one has made."""
        self.count = 2 if options.detached else 1
        self.mailbox: list[Call] = []
        self.running: set[Call] = set()
        self.streams: list[Stream] = []
        """Streaming calls that have begun, of an actor without a lane, in order."""
        self.thread = 0
        """The thread that runs a call of an actor without a lane; 0 when none does."""
        self.lane: Threads | Loop | None = None
        self.gpus: tuple[int | str, ...] = ()
        self._held = packed.dependencies + packed.packed.refs
        self._to_construct = False
        self.place: Amounts | None = None
        """What it has taken its resources from; None: it has not started."""
        if has_coroutines(cls):
            self.lane = Loop(session, options)
        elif options.max_concurrency > 1 or options.groups:
            self.lane = Threads(session, options)
        with session.lock:
            session.actors[self.key] = self
            session.hold(self._held)
        self.creation = self._new_creation()

    @property
    def title(self) -> str:
        """``Class`` or ``Class "name"``."""
        options = self.info.options
        return f'{options.class_name} "{options.name}"' if options.name else options.class_name

    # ------------------------------------------------------------- construction

    def _new_creation(self) -> Call:
        call = Call(self.session.take_ids(), range(0), self.packed, self.info.options, "__init__", None)
        self.adopt(call)
        self.session.begin(call)
        return call

    def adopt(self, call: Call) -> None:
        """Give a call what it has from its actor."""
        call.actor = self
        call.environment = self.environment
        call.setup = self.setup
        call.resources = self.info.options.resources

    def start(self) -> None:
        """Have the constructor run: here, or on the actor's lane."""
        with self.session.lock:
            if self.place is None:
                options = self.info.options
                self.place = self.session.groups.bundle_for(options.where, options.placement)
                self.gpus = self.place.take(options.resources)
            self.creation.gpus = self.gpus
        if self.lane is not None:
            self.lane.construct(self._construct)
            return
        self._to_construct = True
        self.pump()

    def give_up(self) -> None:
        """The constructor can never run: it keeps the actor no longer."""
        with self.session.lock:
            self.creation.held = ()
        self.session.drop_all(self.packed.dependencies + self.packed.packed.refs + (self.key,))

    def _construct(self) -> None:
        session, call = self.session, self.creation
        instance = None
        try:
            with session.machine.inside(call, own_loop=isinstance(self.lane, Loop)):
                found = arguments(session, call)
                if found is not None and is_coroutine(inspect.getattr_static(self.cls, "__init__")):
                    instance = self.cls.__new__(self.cls, *found[0], **found[1])
                    self._starting = asyncio.ensure_future(self._await_constructor(call, instance, found))
                    return
                if found is not None:
                    instance = self.cls(*found[0], **found[1])
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its callers'
            self._construction_failed(call, error)
            return
        if found is None:
            self._input_failed(call)
            return
        found = None
        self._constructed(call, instance)

    async def _await_constructor(
        self, call: Call, instance: Any, found: tuple[tuple[Any, ...], dict[str, Any]]
    ) -> None:
        """Run a constructor that is an ``async def``, which Ray allows too."""
        current.set(call)
        try:
            await instance.__init__(*found[0], **found[1])
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its callers'
            self._construction_failed(call, error)
        else:
            self._constructed(call, instance)

    def _constructed(self, call: Call, instance: Any) -> None:
        session = self.session
        with session.lock:
            if self.creation is not call or self.state != STARTING:
                return  # killed meanwhile
            self.instance, self.state = instance, ALIVE
        session.settle(call, [])
        self.dispatch()

    def _construction_failed(self, call: Call, error: BaseException) -> None:
        if isinstance(error, SystemExit) and error is not self.session.machine.signals.raised:
            self.exited(call, error)
            return
        cause = call_error(call, error)
        if isinstance(cause, RayTaskError):
            self.die(ActorDiedError(cause))
        else:
            self.die(f"The constructor of the actor {self.title} did not end well: {cause}")
        if error is self.session.machine.signals.raised:
            raise error

    def _input_failed(self, call: Call) -> None:
        outcome = self.session.failed_argument(call)
        error = read(outcome.data) if outcome is not None else None
        if isinstance(error, RayTaskError):
            self.die(ActorDiedError(error))
        else:
            self.die(f"An argument of the constructor of the actor {self.title} failed: {error}")

    # -------------------------------------------------------------------- calls

    def method(self, name: str) -> Callable[..., Any]:
        """What a call of `name` runs."""
        instance = self.instance
        if name == "__ray_ready__":
            return lambda: True
        if name == "__ray_call__":
            return lambda function, *args, **kwargs: function(instance, *args, **kwargs)
        if name == "__ray_terminate__":
            return _leave
        if instance is None:
            raise ActorGoneError
        found: Callable[..., Any] = getattr(instance, name)
        return found

    def post(self, call: Call) -> None:
        """Take a call; run what can run."""
        with self.session.lock:
            death = self.death
            if death is None:
                self.mailbox.append(call)
        if death is not None:
            self.session.fail(call, death)
        else:
            self.dispatch()

    @property
    def pending(self) -> int:
        """Calls that have not ended."""
        return len(self.mailbox) + len(self.running)

    def arrived(self, call: Call) -> None:
        """The arguments of a call have become ready (on any thread)."""
        work = self.start if call is self.creation else self.dispatch
        if self.lane is not None:
            work()
        else:
            # Not on the thread that made the argument: it may be an event loop's.
            threading.Thread(target=work, name=f"skate-{self.title}", daemon=True).start()

    def dispatch(self) -> None:
        """Give the lane, or the calling thread, the calls that can run."""
        if self.lane is None:
            self.pump()
            return
        with self.session.lock:
            while self.state == ALIVE and (call := self._next_call()) is not None:
                self._take(call)
                self.lane.post(call)

    def _take(self, call: Call) -> None:
        self.mailbox.remove(call)
        self.running.add(call)
        call.gpus = self.gpus

    def _next_call(self) -> Call | None:
        """The first call that may run: an argument that is not ready holds up its caller's later calls."""
        held_up = set()
        for call in self.mailbox:
            caller = _caller(call)
            if call.missing and not self.info.options.out_of_order:
                held_up.add(caller)
            elif not call.missing and caller not in held_up:
                return call
        return None

    def pump(self) -> None:
        """Run what there is to run, unless a thread does so already; it then goes on with this."""
        while True:
            with self.session.lock:
                work = None if self.thread else self._next_work()
                if work is None:
                    return
                self.thread = threading.get_ident()
            try:
                work()
            finally:
                self.thread = 0

    def _next_work(self) -> Callable[[], None] | None:
        if self._to_construct:
            self._to_construct = False
            return self._construct
        if self.state != ALIVE:
            return None
        while True:
            call = self._next_call()
            self.streams = [stream for stream in self.streams if not stream.ended]
            first = self.streams[0] if self.streams else None
            overtaken = call is not None and call.stream is None
            if first is not None and (overtaken or self._wanted()):
                # A later call or stream has to see what an earlier stream does: that one runs to its end first.
                first.to_end = first.to_end or not first.wants()
                return first.pull
            if call is None:
                return None
            self._take(call)
            if call.stream is None:
                return lambda: run(self.session, call)
            self.streams.append(call.stream)

    def _wanted(self) -> bool:
        return any(stream.wants() for stream in self.streams)

    def call_ended(self, call: Call) -> None:
        """A call has ended, well or not."""
        with self.session.lock:
            if call in self.running:
                self.running.remove(call)
            elif call in self.mailbox:
                self.mailbox.remove(call)

    # --------------------------------------------------------------------- ends

    @property
    def _may_restart(self) -> bool:
        limit = self.info.options.max_restarts
        return limit < 0 or self.restarts < limit

    def exited(self, call: Call, error: SystemExit) -> bool:
        """A call left by SystemExit: end, or start again. Returns False: the call is not to be tried at once."""
        final = isinstance(error, ActorExit) or error.code in (None, 0)
        how = "it called exit_actor" if isinstance(error, ActorExit) else f"it called sys.exit({error.code!r})"
        if final or not self._may_restart:
            self.die(f"The actor {self.title} died: {how}.", graceful=final)
        else:
            self._restart(f"{self.title} died: {how}; it is being restarted")
        return False

    def kill(self, no_restart: bool) -> None:
        """End it now, or start it again."""
        if no_restart or not self._may_restart:
            self.die(f"The actor {self.title} was killed by ray.kill.")
        elif self.state != DEAD:
            self._restart(f"{self.title} was killed by ray.kill; it is being restarted")

    def _restart(self, how: str) -> None:
        session = self.session
        with session.lock:
            running, self.running = list(self.running), set()
            again = [call for call in running if call.may_retry and call.stream is None]
            for call in again:
                call.attempt += 1
            self.mailbox[:0] = again
            self.restarts += 1
            self.state, self.instance = STARTING, None
            before, self.creation = self.creation, self._new_creation()
        session.settle(before, [])
        error = ActorUnavailableError(how, ids.actor_binary(self.key))
        for call in running:
            if call not in again:
                self._interrupt(call)
                session.fail(call, error)
        self.start()

    def die(self, why: str | RayError, graceful: bool = False) -> None:
        """End for good: the calls that it has not answered fail."""
        error = ActorDiedError(why) if isinstance(why, str) else why
        if isinstance(error, ActorDiedError):
            error.actor_id = ids.actor_binary(self.key).hex()
        outcome = failure(error)
        session, options = self.session, self.info.options
        with session.lock:
            if self.state == DEAD:
                return
            self.state, self.death = DEAD, outcome
            if not self.creation.ended:
                self.creation.error = outcome.data
            calls = [*self.running, *self.mailbox]
            instance, self.instance = self.instance, None
            name = (options.namespace, options.name)
            if session.names.get(name) is self:
                del session.names[name]
            if self.place is not None:
                self.place.give(options.resources, self.gpus)
            self.count -= options.detached
            session.hold([self.key])  # until the end of this
        if graceful and hasattr(instance, "__ray_shutdown__"):
            self._shut_down(instance)
        instance = None
        for call in calls:
            self._interrupt(call)
            session.fail(call, outcome)
        session.settle(self.creation, [])
        if self.lane is not None:
            session.threads.extend(self.lane.stop())
        self._end_children()
        session.drop_all((*self._held, self.key))
        settle(session)

    def _end_children(self) -> None:
        """As in Ray, the actors that this one made end with it, whoever has their handles."""
        if self.maker is not None:
            self.maker.children.pop(self.key, None)
        children, self.children = list(self.children.values()), {}
        for child in children:
            child.die(
                f"The actor {child.title} ended: the actor that made it, {self.title}, ended, and it is not detached."
            )

    def _shut_down(self, instance: Any) -> None:
        """Let the instance say goodbye, as Ray does."""
        try:
            with self.session.machine.inside(self.creation):
                instance.__ray_shutdown__()
        except Exception:  # nobody waits for it any more: the log is where it can be seen
            logging.getLogger("skate").warning("%s.__ray_shutdown__ failed", self.title, exc_info=True)

    def _interrupt(self, call: Call) -> None:
        call.cancelled = True
        if self.lane is not None:
            self.lane.cancel(call)

    def unreferenced(self) -> None:
        """No handle is left, and no call."""
        with self.session.lock:
            if self.count > 0:
                return
            if self.state == DEAD:
                if self.session.actors.pop(self.key, None) is not None:
                    self.session.remember(self)
                return
        self.die(f"The actor {self.title} ended: its last handle was dropped.", graceful=True)


def _caller(call: Call) -> int:
    parent = call.parent
    if parent is None:
        return 0
    return parent.actor.key if parent.actor is not None else parent.key


def _leave() -> None:
    raise ActorExit
