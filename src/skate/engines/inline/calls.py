"""Making calls, actors and calls of their methods, and what ends them before their time."""

from __future__ import annotations

import logging
import threading
from typing import Any, TypeVar

import msgspec

from skate.core import ids
from skate.core.actor_names import name_taken, no_such_actor
from skate.core.calls import PackedCall, pack_call
from skate.core.environment import merge_environments
from skate.core.generator import ObjectRefGenerator
from skate.core.groups import GroupUnschedulable, actor_group_removed
from skate.core.options import STREAMING
from skate.core.placement import Where, captured, inherits
from skate.core.refs import ObjectRef, make_ref
from skate.core.serialization import dump_definition
from skate.core.spec import ActorInfo, ActorOptions, CallOptions, Definition, MethodInfo, Resources, TaskOptions
from skate.engines.inline.actors import Actor
from skate.engines.inline.groups import where_of
from skate.engines.inline.records import Call, Row, current
from skate.engines.inline.running import ActorExit, cancelled, run
from skate.engines.inline.session import Session
from skate.engines.inline.streams import Stream
from skate.exceptions import (
    ActorDiedError,
    ActorHandleNotFoundError,
    PendingCallsLimitExceeded,
    RayError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
)

Options = TypeVar("Options", TaskOptions, ActorOptions)


class Calls:
    """The verbs of the engine that begin something, or end it."""

    def __init__(self, session: Session) -> None:
        self.session = session
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
        label = f"The actor {options.class_name}"
        impossible = session.machine.why_impossible(label, options.placement, options.where)
        environment = merge_environments(self._environment(), options.environment)
        session.machine.surroundings.before_first_call(environment)
        with session.lock:
            taken = self._of_that_name(options)
            if taken is not None:
                return taken.info
            info = ActorInfo(session.take_ids(), options, methods)
            cls: Any = definition.target
            actor = Actor(session, info, cls, packed, environment)
            self._enter(actor)
        actor.creation.impossible = impossible
        self._set_going(actor, label)
        return info

    def _of_that_name(self, options: ActorOptions) -> Actor | None:
        """The actor that has the name, with one more handle; an error where it is not wanted. With the lock held."""
        taken = self.session.names.get((options.namespace, options.name)) if options.name else None
        if taken is None:
            return None
        if not options.get_if_exists:
            raise name_taken(options.name, options.namespace)
        taken.count += 1
        return taken

    def _enter(self, actor: Actor) -> None:
        """A new actor has its maker, and its name. With the lock held."""
        options = actor.info.options
        maker = current.get()
        if maker is not None and maker.actor is not None and not options.detached:
            maker.actor.children[actor.key] = actor
            actor.maker = maker.actor
        if options.name:
            self.session.names[options.namespace, options.name] = actor

    def _set_going(self, actor: Actor, label: str) -> None:
        """Run the constructor of a new actor, now or when what it needs is there."""
        creation, options = actor.creation, actor.info.options
        trouble = self._trouble(creation, label, options.where, options.placement)
        if trouble is not None:
            actor.die(self._as_actors(trouble, label, options.where))
        elif creation.impossible:
            self._warn(creation.impossible, options.placement)
            actor.give_up()
        elif self.session.await_arguments(creation, actor.arrived, options.where):
            actor.start()

    def call(self, actor: int, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Any:
        """Call a method; that of a plain actor has run on return."""
        session = self.session
        session.enter()
        target = session.actors.get(actor)
        if target is None:
            return self._call_of_the_gone(actor, pack_call(args, kwargs), method, options)
        limit = target.info.options.max_pending_calls
        if 0 < limit <= target.pending:
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
                raise no_such_actor(name, namespace)
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
