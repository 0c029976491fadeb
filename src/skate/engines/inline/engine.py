"""`InlineEngine`: the verbs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from skate.core import engine as engines
from skate.core import ids
from skate.core.calls import PackedCall, pack_call
from skate.core.engine import Context, Ready
from skate.core.environment import merge_environments, shown_environment
from skate.core.generator import ObjectRefGenerator, asyncio_ready
from skate.core.groups import GroupUnschedulable, actor_group_removed, no_such_name
from skate.core.locations import of_rows
from skate.core.nodes import NodeSpec
from skate.core.options import STREAMING
from skate.core.placement import Where, captured, inherits
from skate.core.refs import ObjectRef, make_ref
from skate.core.serialization import dump_definition, pack
from skate.core.settings import Settings
from skate.core.spec import (
    ActorInfo,
    ActorOptions,
    CallOptions,
    Definition,
    GroupSpec,
    MethodInfo,
    Resources,
    TaskOptions,
)
from skate.engines.execution import as_raised, full_name
from skate.engines.inline.actors import Actor
from skate.engines.inline.groups import await_group, reserve, unreserve, where_of
from skate.engines.inline.lanes import JOIN
from skate.engines.inline.records import END, FAILED, PENDING, Call, Row, current, success
from skate.engines.inline.running import ActorExit, cancelled, run, stored
from skate.engines.inline.session import Session
from skate.engines.inline.state import actor_row, rows_of
from skate.engines.inline.streams import Stream
from skate.engines.inline.unpacking import read
from skate.engines.inline.waiting import until
from skate.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorHandleNotFoundError,
    GetTimeoutError,
    PendingCallsLimitExceeded,
    RayError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
)

Options = TypeVar("Options", TaskOptions, ActorOptions)


class InlineEngine:
    """Runs everything in this process; see the package's own words."""

    name = "inline"
    address = "local"

    def __init__(self, settings: Settings) -> None:
        for spec in settings.nodes:
            self.add_node(spec)
        settings = msgspec.structs.replace(settings, environment=shown_environment(settings.environment))
        self.session = Session(settings)
        self.folder = settings.folder
        self.session.remember = self._remember
        self._warned: set[Any] = set()

    # ------------------------------------------------------------------- calls

    def submit(self, function: Definition, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions) -> Any:
        """Run a task, now."""
        session = self.session
        session.enter()
        packed = pack_call(args, kwargs)
        options = self._captured(options)
        target = session.load(function)
        environment = merge_environments(self._environment(), options.environment)
        setup = session.machine.surroundings.before_first_call(environment)
        call = self._call(packed, options, options.returns, function.name)
        call.name = options.name
        call.target = target
        call.resources = options.resources
        call.retries = options.max_retries
        call.environment, call.setup = environment, setup
        call.impossible = session.machine.why_impossible(call.label, options.resources, options.where)
        trouble = self._trouble(call, call.label, options.where, options.resources)
        session.begin(call)
        made = self._results(call, options.returns, pulled=True)
        if trouble is not None:
            session.fail(call, trouble)
        elif call.impossible and options.where is not None and options.where.node:
            session.fail(call, TaskUnschedulableError(call.impossible))  # no other node will ever be that one
        elif call.impossible:
            self._warn(call.impossible, options.resources)
        elif session.await_arguments(call, self._arrived, options.where) and call.stream is None:
            run(session, call)
        return made

    def _call(self, packed: PackedCall, options: TaskOptions | CallOptions, returns: int, name: str) -> Call:
        count = returns if returns >= 0 else 1
        key = self.session.take_ids(max(count, 1))
        return Call(key, range(key, key + count), packed, options, name, current.get())

    def _results(self, call: Call, returns: int, pulled: bool) -> Any:
        """What the caller gets for a call that has begun."""
        if returns == STREAMING:
            call.stream = Stream(self.session, call, pulled)
            return ObjectRefGenerator(call.key)
        refs: list[ObjectRef[Any]] = [make_ref(key, index) for index, key in enumerate(call.keys)]
        if not refs:
            return None
        return refs[0] if len(refs) == 1 else refs

    def _arrived(self, call: Call) -> None:
        """A task's arguments are ready: it runs in a thread, for nobody else may be there to run it."""
        work = (lambda: run(self.session, call)) if call.stream is None else call.stream.pull
        threading.Thread(target=work, name=f"skate-{call.label}", daemon=True).start()

    def _captured(self, options: Options) -> Options:
        """Options of a call that goes into the group of its caller, if that captures what it starts."""
        call = current.get()
        where = captured(where_of(call)) if call is not None else None
        if where is None or not inherits(options.where):
            return options
        return msgspec.structs.replace(options, where=where)

    def _trouble(self, call: Call, label: str, where: Where | None, need: Resources) -> Exception | None:
        """Why a call fails at once for the sake of its group. In one that can never be placed it waits."""
        if where is None or not where.group:
            return None
        trouble = self.session.groups.why_impossible(label, where, need)
        if not isinstance(trouble, GroupUnschedulable):
            return trouble
        call.impossible = str(trouble)
        return None

    def _as_actors(self, trouble: Exception, label: str, where: Where | None) -> str | RayError:
        """The same trouble as calls of an actor get it."""
        if isinstance(trouble, TaskPlacementGroupRemoved) and where is not None:
            return actor_group_removed(label, where.group)
        return f"{label} cannot start: {trouble}"

    def _remember(self, actor: Actor) -> None:
        self.session.history.actors.append(actor_row(self.session, actor))

    def _environment(self) -> str:
        call = current.get()
        return self.session.settings.environment if call is None else call.environment

    def _warn(self, text: str, request: object) -> None:
        if request not in self._warned:
            self._warned.add(request)
            logging.getLogger("skate").warning(text)
            self.session.history.event("WARNING", "SCHEDULER", text)

    # ------------------------------------------------------------------ actors

    def spawn(
        self,
        definition: Definition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: ActorOptions,
        methods: tuple[MethodInfo, ...],
    ) -> ActorInfo:
        """Make an actor; its constructor runs now, unless it is concurrent or its arguments are not ready."""
        session = self.session
        session.enter()
        packed = pack_call(args, kwargs)
        definition.pickled(dump_definition)  # only to refuse what the other engines would refuse
        options = self._captured(options)
        options = msgspec.structs.replace(options, namespace=options.namespace or session.settings.namespace)
        name = (options.namespace, options.name)
        label = f"The actor {options.class_name}"
        impossible = session.machine.why_impossible(label, options.placement, options.where)
        environment = merge_environments(self._environment(), options.environment)
        session.machine.surroundings.before_first_call(environment)
        with session.lock:
            taken = session.names.get(name) if options.name else None
            if taken is not None:
                if not options.get_if_exists:
                    raise ActorAlreadyExistsError(
                        f"The actor name {options.name!r} is taken in namespace {name[0]!r}. Choose another one, use "
                        "get_actor, or pass get_if_exists=True."
                    )
                taken.count += 1
                return taken.info
            info = ActorInfo(session.take_ids(), options, methods)
            cls: Any = definition.target
            actor = Actor(session, info, cls, packed, environment)
            maker = current.get()
            if maker is not None and maker.actor is not None and not options.detached:
                maker.actor.children[actor.key] = actor
                actor.maker = maker.actor
            if options.name:
                session.names[name] = actor
        creation = actor.creation
        creation.impossible = impossible
        trouble = self._trouble(creation, label, options.where, options.placement)
        if trouble is not None:
            actor.die(self._as_actors(trouble, label, options.where))
            return info
        impossible = creation.impossible
        if impossible:
            self._warn(impossible, options.placement)
            actor.give_up()
        elif session.await_arguments(creation, actor.arrived, options.where):
            actor.start()
        return info

    def call(self, actor: int, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Any:
        """Call a method; that of a plain actor has run on return."""
        session = self.session
        session.enter()
        target = session.actors.get(actor)
        if target is None:
            return self._call_of_the_gone(actor, pack_call(args, kwargs), method, options)
        limit = target.info.options.max_pending_calls
        if 0 <= limit <= target.pending and limit:
            raise PendingCallsLimitExceeded(
                f"The actor {target.title} has {target.pending} calls waiting, as many as its max_pending_calls "
                "allows: wait for some before making more."
            )
        call = self._call(pack_call(args, kwargs), options, options.returns, method)
        call.name = options.name
        call.target = method
        given = options.max_retries
        call.retries = target.info.options.max_task_retries if given is None else given
        target.adopt(call)
        session.begin(call)
        made = self._results(call, options.returns, pulled=target.lane is None)
        session.await_arguments(call, target.arrived)
        target.post(call)
        return made

    def _call_of_the_gone(self, actor: int, packed: PackedCall, method: str, options: CallOptions) -> Any:
        """A call by a handle that did not keep its actor, or that is older than the session."""
        actor_id = ids.actor_binary(actor).hex()
        if actor >> ids.CLIENT_SHIFT != self.session.client:
            raise ActorHandleNotFoundError(f"Actor {actor_id} belongs to a session that has ended: make it anew.")
        call = self._call(packed, options, options.returns, method)
        self.session.begin(call)
        made = self._results(call, options.returns, pulled=True)
        why = f"The actor {actor_id} ended: its last handle was dropped. (A handle that get_actor gave keeps none.)"
        self.session.fail(call, ActorDiedError(why, actor_id=actor_id))
        return made

    def find(self, name: str, namespace: str) -> ActorInfo:
        """A named actor that lives; being found does not keep it alive."""
        session = self.session
        session.enter()
        namespace = namespace or session.settings.namespace
        with session.lock:
            actor = session.names.get((namespace, name))
            if actor is None:
                raise ValueError(
                    f"Failed to look up actor with name {name!r}: there is none in namespace {namespace!r}."
                )
            return actor.info

    def kill(self, actor: int, no_restart: bool) -> None:
        """End an actor; a call that runs cannot be interrupted, but fails."""
        self.session.enter()
        found = self.session.actors.get(actor)
        if found is not None:
            found.kill(no_restart)

    def exit_actor(self) -> None:
        """Leave the calling actor."""
        call = current.get()
        if call is None or call.actor is None:
            raise TypeError("exit_actor works inside an actor only.")
        call.actor.leaving = True
        raise ActorExit

    # ----------------------------------------------------------------- objects

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a copy."""
        session = self.session
        session.enter()
        packed = pack(value)
        session.check_room(packed)
        return stored(session, success(packed))

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values."""
        session = self.session
        session.enter()
        with session.lock:
            rows = [session.row(ref) for ref in refs]
        if not until(session, rows, len(rows), timeout, stop_at_failure=True):
            waiting = sum(row.state == PENDING for row in rows)
            raise GetTimeoutError(f"{waiting} of {len(rows)} values were not ready within {timeout:g} seconds.")
        for row in rows:
            if row.state == FAILED:
                _raise(row)
        return [read(row.data) for row in rows]

    def wait(
        self, refs: Sequence[ObjectRef[Any]], count: int, timeout: float | None, fetch: bool = True
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Which are ready, and which are not."""
        session = self.session
        session.enter()
        with session.lock:
            rows = [session.row(ref) for ref in refs]
        until(session, rows, count, timeout, stop_at_failure=False)
        ready: list[ObjectRef[Any]] = []
        rest: list[ObjectRef[Any]] = []
        for ref, row in zip(refs, rows, strict=True):
            (ready if row.state != PENDING and len(ready) < count else rest).append(ref)
        return ready, rest

    def on_ready(self, ref: ObjectRef[Any], callback: Ready) -> None:
        """Have `callback` called when the object is ready."""
        session = self.session
        session.enter()
        row = session.row(ref)
        until(session, [row], 1, 0, stop_at_failure=False)  # what runs on demand runs now
        with session.lock:
            if row.state == PENDING:
                row.watchers.append(callback)
                return
        callback()

    def asyncio_future(self, ref: ObjectRef[Any]) -> Any:
        """A future of the running loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def settle() -> None:
            if future.done():
                return
            try:
                (value,) = self.get([ref], 0)
            except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the future
                future.set_exception(error)
            else:
                future.set_result(value)

        def ready() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle)

        if self.wait([ref], 1, 0)[0]:
            settle()
        else:
            self.on_ready(ref, ready)
        return future

    def asyncio_ready(self, ref: ObjectRef[Any]) -> Any:
        """A future of the running loop."""
        return asyncio_ready(self, ref)

    def next_item(self, stream: int) -> ObjectRef[Any]:
        """The next item of a stream; one that is made on demand is made now."""
        session = self.session
        session.enter()
        found = session.streams[stream]
        ref: ObjectRef[Any] = make_ref(found.next_key())
        if found.pulled and not found.ended:
            if found.call.actor is None:
                found.pull()
            else:
                found.call.actor.dispatch()
        return ref

    def is_end(self, item: ObjectRef[Any]) -> bool:
        """Whether an item lies past the end."""
        return self.session.row(item).state == END

    def carry(self, actor: int) -> Any:
        """None: a handle needs no more than its key."""

    def adopt(self, carried: Any) -> int:
        """Nothing is carried here."""
        raise TypeError(f"{carried!r} stands for no actor of this session.")

    def borrow(self, key: int) -> None:
        """One more reference."""
        with self.session.lock:
            self.session.hold([key])

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Cancel a call that has not ended: what has not begun never runs; a coroutine is interrupted."""
        self.session.enter()
        with self.session.lock:
            row: Row | None = self.session.rows.get(ref._key)
        if row is None:
            return
        if force and row.of_actor:
            raise ValueError("cancel(force=True) works on tasks only: end an actor with kill.")
        if row.maker is not None:
            self._cancel(row.maker, recursive)

    def _cancel(self, call: Call, recursive: bool) -> None:
        session = self.session
        with session.lock:
            if call.ended:
                return
            call.cancelled = True
            children = [other for other in session.live.values() if other.parent is call] if recursive else []
            begun = bool(call.thread) and call.stream is None
        for child in children:
            self._cancel(child, recursive)
        actor = call.actor
        if actor is not None and actor.lane is not None and call.task is not None:
            actor.lane.cancel(call)
        elif not begun:
            session.fail(call, cancelled(call, "before it began" if call.stream is None else "before its end"))

    # -------------------------------------------------------------------- facts

    def context(self) -> Context:
        """Where the calling code runs."""
        session, call = self.session, current.get()
        namespace, node = session.settings.namespace, session.machine.node
        worker = ids.worker_hex(session.client)
        if call is None:
            return Context(namespace, node, worker, environment=session.settings.environment)
        actor = call.actor
        where = where_of(call)
        return Context(
            namespace,
            node,
            worker,
            task=call.key,
            task_name=call.name or call.label,
            function_name=f"{full_name(actor.cls)}.{call.function_name}"
            if actor is not None
            else full_name(call.target),
            attempt=call.attempt,
            actor=actor.info if actor is not None else None,
            reconstructed=actor is not None and actor.restarts > 0,
            resources=call.assigned(),
            gpus=call.gpus,
            environment=call.environment,
            driver=False,
            group=where.group if where is not None else 0,
            capture=where is not None and where.capture,
        )

    def is_cancelled(self) -> bool:
        """Whether the calling call was cancelled."""
        call = current.get()
        return call is not None and call.cancelled

    def reserve(self, spec: GroupSpec) -> int:
        """A new placement group."""
        self.session.enter()
        return reserve(self.session, spec)

    def unreserve(self, group: int) -> None:
        """Remove a placement group."""
        self.session.enter()
        unreserve(self.session, group)

    def await_group(self, group: int, value: Any) -> ObjectRef[Any]:
        """An object that becomes ready with a group."""
        self.session.enter()
        return make_ref(await_group(self.session, group, success(pack(value))))

    def find_group(self, name: str, namespace: str) -> int:
        """A named placement group."""
        with self.session.lock:
            group = self.session.groups.names.get((namespace, name))
            if group is None:
                raise no_such_name(name, namespace)
            return group.key

    def group(self, group: int) -> dict[str, Any] | None:
        """A placement group's row."""
        groups = self.session.groups
        with self.session.lock:
            found = groups.live.get(group) or groups.gone.get(group)
            return groups.row(found) if found is not None else None

    def state(self, kind: str) -> list[dict[str, Any]]:
        """Rows of what the session holds."""
        self.session.enter()
        with self.session.lock:
            return rows_of(self.session, kind)

    def locations(
        self, refs: Sequence[ObjectRef[Any]], timeout: float | None, ask: bool
    ) -> list[dict[str, Any] | None]:
        """All objects are in this process."""
        return of_rows(self.state("objects"), refs)

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """``(total, free)``."""
        self.session.enter()
        with self.session.lock:
            return self.session.machine.resources()

    def add_node(self, spec: NodeSpec) -> str:
        """There is one process, and so one node."""
        raise NotImplementedError(
            "The inline engine has one node, for everything runs in this process: use engine='local' for virtual nodes."
        )

    def remove_node(self, node: str) -> None:
        """The only node is the driver's own."""
        known = node == self.session.machine.node
        raise ValueError(
            "The driver's own node cannot be removed." if known else f"There is no node of the id {node!r} to remove."
        )

    def close(self) -> None:
        """End the actors and their threads."""
        session = self.session
        if session.closed:
            return
        for actor in list(session.actors.values()):
            actor.die("The session has ended.", graceful=True)
        for call in list(session.live.values()):
            session.fail(call, cancelled(call, "by the end of the session"))
        for stream in list(session.streams.values()):
            stream.unreferenced()
        session.closed = True
        session.machine.close()
        deadline = time.monotonic() + JOIN
        for thread in session.threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        session.rows.clear()
        if engines.running() is self:
            engines.use(None)


def _raise(row: Row) -> None:
    raise as_raised(read(row.data))  # a variable would keep the caller's frames alive
