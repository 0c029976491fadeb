"""Ray's errors as Skate's: the same names, attributes and texts."""

from __future__ import annotations

import re
from typing import Any

import ray

from skate import exceptions
from skate.engines.ray.advice import with_advice

_COLOURS = re.compile(r"\x1b\[\d+m")
_HEAD = re.compile(r"(\S+)\(\) \(pid=(\d+), ip=([^,)]+)(?:, actor_id=(\w+), repr=(.*))?\)\n")
"""The first line of a task error's text: what ran, and where."""


def translated(error: BaseException) -> BaseException:
    """The error of `skate.exceptions` that stands for one of Ray's; any other as it is."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return _task_error(error)
    if not isinstance(error, ray.exceptions.RayError):
        return error
    for kind in type(error).__mro__:
        ours = getattr(exceptions, kind.__name__, None)
        if isinstance(ours, type) and issubclass(ours, exceptions.RayError):
            return _copy(error, ours)
    return exceptions.RaySystemError(error)


def _task_error(error: Any) -> BaseException:
    """Ray raises an instance of the cause's class that has kept no more than its text: that is taken apart again."""
    cause = error.cause
    if isinstance(cause, ray.exceptions.RayError) and not isinstance(cause, ray.exceptions.RayTaskError):
        cause = translated(cause)
    text = with_advice(_COLOURS.sub("", str(error)))
    head = _HEAD.search(text)
    if head is None:
        return exceptions.RayTaskError("a task", text, cause).as_instanceof_cause()
    title, pid, ip, actor, shown = head.groups()
    body = "Traceback (most recent call last):\n" + text[head.end() :].lstrip("\n")
    name = title.removeprefix("ray::")
    made = exceptions.RayTaskError(name, body, cause, title, int(pid), ip, shown, actor)
    return made.as_instanceof_cause()


def _copy(error: BaseException, kind: type[exceptions.RayError]) -> BaseException:
    """The same attributes and the same text, in a class of ours."""
    made = kind.__new__(kind)
    text = with_advice(str(error))
    made.args = (text,)
    known = dict(vars(error))
    vars(made).update({name: value for name, value in known.items() if not name.startswith("__")})
    for name in ("error_msg", "error_message", "message", "_message"):
        if _says(kind, name):
            vars(made)[name] = text
    if isinstance(made, exceptions.RaySystemError):
        made.client_exc, made.traceback_str = text, None
    if isinstance(made, exceptions.RayActorError):
        vars(made).setdefault("_actor_init_failed", False)
        vars(made).setdefault("_preempted", False)
    return made


_SPOKEN = {
    "error_msg": (exceptions.RayActorError,),
    "error_message": (
        exceptions.TaskCancelledError,
        exceptions.ActorAlreadyExistsError,
        exceptions.ActorHandleNotFoundError,
        exceptions.TaskUnschedulableError,
        exceptions.ActorUnschedulableError,
        exceptions.RuntimeEnvSetupError,
    ),
    "message": (
        exceptions.OutOfMemoryError,
        exceptions.NodeDiedError,
        exceptions.AuthenticationError,
        exceptions.RpcError,
    ),
    "_message": (exceptions.ObjectLostError,),
}
"""The attribute that holds an error's text, by class."""


def _says(kind: type, name: str) -> bool:
    return issubclass(kind, _SPOKEN[name])
