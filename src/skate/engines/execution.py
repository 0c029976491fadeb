"""Running a call, the same way on every engine: what it returns, and what its failure looks like to the caller."""

from __future__ import annotations

import inspect
import os
import pickle
import sys
import traceback
from collections.abc import Iterator
from itertools import islice
from typing import Any

from skate.core.serialization import Packed, pack
from skate.exceptions import RayError, RayTaskError, TaskCancelledError, UnserializableException

_HERE = os.path.dirname(__file__)
_OURS = (_HERE + os.sep, os.path.join(os.path.dirname(_HERE), "core") + os.sep)


def full_name(target: Any) -> str:
    """``module.function``, or ``module.Class`` with the classes around it; the script's name stands for __main__."""
    module = getattr(target, "__module__", None) or ""
    if module == "__main__":
        module = _script_of(target) or module
    name: str = target.__qualname__ if isinstance(target, type) else getattr(target, "__name__", type(target).__name__)
    return f"{module}.{name}" if module else f"{name}"


def _script_of(target: Any) -> str:
    """The name of the file that defines a function, or a method of a class; "" when there is none."""
    for part in vars(target).values() if isinstance(target, type) else (target,):
        code = getattr(part, "__code__", None)
        if code is not None:
            return str(os.path.splitext(os.path.basename(code.co_filename))[0])
    return ""


def split_returns(value: Any, count: int, name: str) -> list[Any]:
    """The `count` values of a call with several returns.

    ValueError when it returned another number of them (a generator may have more: nobody asks for them), TypeError when
    what it returned has no number at all.
    """
    if count == 1:
        return [value]
    if count == 0:
        return []
    if inspect.isgenerator(value):
        values = list(islice(value, count))
        value.close()
    elif not hasattr(value, "__len__"):
        raise TypeError(f"{name} has num_returns={count}, but returned one {type(value).__name__}, not {count} values.")
    else:
        values = list(value)
    if len(values) != count:
        raise ValueError(f"{name} has num_returns={count}, but returned {len(values)} values.")
    return values


def is_stream(value: Any) -> bool:
    """Whether the result of a streaming call can be iterated item by item."""
    return inspect.isgenerator(value) or inspect.isasyncgen(value) or isinstance(value, Iterator)


def task_error(error: BaseException, name: str, *, actor: str | None = None, actor_id: str | None = None) -> RayError:
    """What the caller's `get` raises for `error`, raised by the call `name` in this process."""
    asyncio = sys.modules.get("asyncio")  # costly to import, and without it there is nothing of it to catch
    stopped = actor is not None and asyncio is not None and isinstance(error, asyncio.CancelledError)
    if stopped or isinstance(error, KeyboardInterrupt):
        return TaskCancelledError(error_message=f"Task {name} was cancelled while it ran.")
    frames = user_frames(error)
    if frames is None:  # it arose in the engine, as when a result cannot be pickled: its own lines tell nothing
        text = "".join(traceback.format_exception_only(error))
    else:
        text = "".join(traceback.format_exception(error.with_traceback(frames)))
    return RayTaskError(
        name, text, error, proctitle=name, pid=os.getpid(), ip="127.0.0.1", actor_repr=actor, actor_id=actor_id
    )


def as_raised(error: BaseException) -> BaseException:
    """How `get` raises a call's error: as an instance of its cause's class where there is one."""
    return error.as_instanceof_cause() if isinstance(error, RayTaskError) else error


def pack_error(error: BaseException) -> Packed:
    """Pack an error; one that cannot be pickled, or not be rebuilt, keeps its text and its class's name."""
    try:
        packed = pack(error)
        pickle.loads(packed.pickled, buffers=packed.buffers)
        return packed
    except Exception as problem:  # noqa: BLE001  any class may fail to pickle or to be rebuilt in any way
        cause = error.cause if isinstance(error, RayTaskError) else error
        note = f"{type(cause).__name__}: {cause}\n(The exception itself could not be sent: {problem})"
        if not isinstance(error, RayTaskError):
            return pack(RayError(note))
        text = f"{error.traceback_str}\n{note}"
        return pack(
            RayTaskError(
                error.function_name,
                text,
                UnserializableException(text),
                proctitle=error.function_name,
                pid=os.getpid(),
                ip="127.0.0.1",
                actor_repr=error.actor_repr,
                actor_id=error._actor_id,
            )
        )


def has_quit(error: BaseException) -> bool:
    """Whether an error is the answer to `q` in a debugger: whoever typed that wants no second attempt."""
    bdb = sys.modules.get("bdb")
    return bdb is not None and isinstance(error, bdb.BdbQuit)


def wants_post_mortem(error: BaseException) -> bool:
    """Whether a debugger is to look at an error before its call fails with it; the environment says so."""
    wanted = os.environ.get("SKATE_POST_MORTEM") or os.environ.get("RAY_DEBUG_POST_MORTEM") or "0"
    if wanted == "0" or not isinstance(error, Exception) or has_quit(error):
        return False
    return user_frames(error) is not None


def user_frames(error: BaseException) -> Any:
    """The traceback without the engine's own frames at its top."""
    inner = error.__traceback__
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_OURS):
        inner = inner.tb_next
    return inner
