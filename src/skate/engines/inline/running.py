"""Running calls: attempts, results, errors. What an actor adds is in `actors.py`."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from skate.core import ids
from skate.core.calls import NO_ARGUMENTS, fill_call
from skate.core.generator import DynamicObjectRefGenerator
from skate.core.options import DYNAMIC
from skate.core.refs import ObjectRef, TaskID, make_ref
from skate.core.serialization import pack
from skate.core.spec import ActorOptions
from skate.engines.execution import has_quit, is_stream, split_returns, task_error, user_frames, wants_post_mortem
from skate.engines.inline.groups import where_of
from skate.engines.inline.records import NOTHING, Call, Outcome, failure, lay_down, success
from skate.engines.inline.session import Session, unpickled
from skate.engines.inline.unpacking import read
from skate.exceptions import TaskCancelledError, WorkerCrashedError


class ActorExit(SystemExit):
    """What `exit_actor` raises on its way out of an actor."""


class ActorGoneError(Exception):
    """A call was about to begin when its actor ended, or was started anew, by another thread."""


def run(session: Session, call: Call) -> None:
    """Run a call to its end in this thread, as often as its options ask for."""
    if call.ended:
        return
    if call.actor is None and call.place is None:
        with session.lock:
            call.place = session.groups.bundle_for(where_of(call), call.resources)
            call.gpus = call.place.take(call.resources)
    try:
        with session.machine.inside(call):
            while not call.ended and _attempt(session, call):
                call.attempt += 1
    except BaseException:  # a signal's exception, maybe between two steps: nothing may stay pending
        session.fail(call, cancelled(call, "by a signal"))
        raise
    finally:
        if call.stream is None:
            give_back(session, call)


def give_back(session: Session, call: Call) -> None:
    """A task that has ended holds its resources no longer."""
    with session.lock:
        if call.place is not None:
            call.place.give(call.resources, call.gpus)
            call.place = None


def _attempt(session: Session, call: Call) -> bool:
    """One attempt; True when another is due."""
    try:
        found = arguments(session, call)
        if found is None:
            return False
        value = function_of(call)(*found[0], **found[1])
        found = None
        if call.stream is not None:
            call.stream.source = source_of(value, call.label)
            return False
        outcomes = results(session, call, value)
        value = None
    except BaseException as error:  # noqa: BLE001  whatever user code raises is its caller's
        return failed(session, call, error)
    finish(session, call, outcomes)
    return False


def arguments(session: Session, call: Call) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A fresh copy of a call's arguments; None when a dependency failed, and the call with it."""
    call.began = time.time()
    packed, dependencies = call.packed
    if packed.pickled == NO_ARGUMENTS:
        return (), {}
    if not dependencies:
        return fill_call(read(lay_down(packed)), [])
    with session.lock:
        outcome = session.failed_argument(call)
        rows = [session.rows[key] for key in dependencies] if outcome is None else []
    if outcome is not None:
        session.fail(call, outcome)
        return None
    return fill_call(read(lay_down(packed)), [read(row.data) for row in rows])


def function_of(call: Call) -> Any:
    """What is to be called."""
    if not isinstance(call.target, str):
        return call.target
    assert call.actor is not None
    return call.actor.method(call.target)


def results(session: Session, call: Call, value: Any) -> list[Outcome]:
    """The packed results of a call that returned."""
    if call.actor is not None and call.actor.leaving:
        raise ActorExit  # exit_actor holds though the call caught what it raised
    returns = getattr(call.options, "returns", 1)
    if returns == DYNAMIC:
        value, returns = _dynamic(session, call, value), 1
    elif returns == 1 and inspect.isgenerator(value):
        value = next(value)
    outcomes = []
    for part in split_returns(value, returns, call.label):
        packed = pack(part)
        session.check_room(packed)
        outcomes.append(NOTHING if part is None else success(packed))
    return outcomes


def finish(session: Session, call: Call, outcomes: list[Outcome]) -> None:
    """End a call well, unless it was cancelled meanwhile."""
    if call.cancelled:
        session.fail(call, cancelled(call, "while it ran"))
    else:
        session.settle(call, outcomes)


def _dynamic(session: Session, call: Call, value: Any) -> DynamicObjectRefGenerator[Any]:
    """A reference for each item; when the generator fails, the last one holds its error."""
    refs: list[ObjectRef[Any]] = []
    try:
        for item in source_of(value, call.label):
            packed = pack(item)
            session.check_room(packed)
            refs.append(stored(session, success(packed)))
    except Exception as error:
        if call.may_retry and retries_on(call, error):
            raise
        refs.append(stored(session, failure(call_error(call, error))))
    return DynamicObjectRefGenerator(refs)


def stored(session: Session, outcome: Outcome) -> ObjectRef[Any]:
    """A new object with a value."""
    key = session.take_ids()
    with session.lock:
        session.new_row(key)
        session.fill(key, outcome)
    return make_ref(key)


# ------------------------------------------------------------------------------ errors


def failed(session: Session, call: Call, error: BaseException) -> bool:
    """An attempt raised: True when another is due; otherwise the call has ended."""
    if error is session.machine.signals.raised:
        session.fail(call, cancelled(call, "by a signal"))
        raise error
    if call.ended:
        return False
    if isinstance(error, ActorGoneError):
        if call.actor is not None and call.actor.death is not None:
            session.fail(call, call.actor.death)
        return False  # or whoever starts the actor anew sees to it
    if call.cancelled:
        session.fail(call, cancelled(call, "while it ran"))
        return False
    if isinstance(error, SystemExit):
        return _exited(session, call, error)
    if call.may_retry and retries_on(call, error):
        session.history.ended(call, failure(call_error(call, error)).data)
        return True
    session.fail(call, call_error(call, error), raised=True)
    return False


def retries_on(call: Call, error: BaseException) -> bool:
    """Whether the options ask for another attempt after `error`."""
    options = call.options
    if isinstance(options, ActorOptions) or not options.retry_exceptions or not isinstance(error, Exception):
        return False
    if has_quit(error):
        return False
    return not options.retry_on or isinstance(error, unpickled(options.retry_on))


def _exited(session: Session, call: Call, error: SystemExit) -> bool:
    if call.actor is not None:
        return call.actor.exited(call, error)
    if call.may_retry:
        return True
    tried = f" {call.attempt + 1} times" if call.attempt else ""
    session.fail(
        call,
        WorkerCrashedError(
            f"{call.label} called sys.exit({error.code!r}){tried}: that ends the worker, which in the inline engine is "
            "this process, so it is counted as a crash instead."
        ),
    )
    return False


def call_error(call: Call, error: BaseException) -> BaseException:
    """What callers see of what a call raised; before that, a debugger may look at it."""
    if wants_post_mortem(error):
        import pdb

        pdb.post_mortem(user_frames(error))
    if call.actor is None:
        return task_error(error, call.label)
    info = call.actor.info
    actor_id = ids.actor_binary(info.actor).hex()
    return task_error(error, call.label, actor=info.options.class_name, actor_id=actor_id)


def cancelled(call: Call, when: str) -> TaskCancelledError:
    """What callers see of a cancelled call."""
    return TaskCancelledError(TaskID(ids.task_binary(call.key)), f"{call.label} was cancelled {when}.")


# --------------------------------------------------------------------------- generators


def source_of(value: Any, label: str) -> Iterator[Any]:
    """The items of a streaming call's result; TypeError when it has none."""
    if not is_stream(value):
        raise TypeError(f"{label} has num_returns='streaming', but returned a {type(value).__name__}, not a generator.")
    items: Any = value
    return _iterate(items) if inspect.isasyncgen(value) else iter(items)


def _iterate(items: AsyncGenerator[Any, None]) -> Iterator[Any]:
    """The items of an async generator where no loop runs."""
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                item = loop.run_until_complete(anext(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        loop.run_until_complete(items.aclose())
        loop.close()
