"""Noting the line of the program that makes each object, where that was asked for: it costs each call some time.

The verbs of the engine are wrapped in each process, so that nothing of this is in the way when it was not asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from skate.core.generator import ObjectRefGenerator
from skate.core.refs import ObjectRef
from skate.core.spec import ActorInfo

if TYPE_CHECKING:
    from skate.engines.local.hub import Hub

DEEPEST = 3
"""Frames of the program that are noted, the innermost first."""
LONGEST = 1000
"""Characters of a note."""
SLACK = 1000
"""Notes of objects that are gone, beyond as many as there are objects, before they are dropped."""
_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
_KINDS = {"submit": "(task call)", "call": "(actor call)", "spawn": "(actor call)", "put": "(put object)"}


def record(client: Any, tell: Callable[[list[int], str], None]) -> None:
    """Have `tell` called with the keys of what each verb of an engine makes, and where in the program."""
    for verb, kind in _KINDS.items():
        setattr(client, verb, partial(_noting, getattr(client, verb), kind, tell))


def _noting(verb: Callable[..., Any], kind: str, tell: Callable[[list[int], str], None], *args: Any) -> Any:
    made = verb(*args)
    keys = _keys(made)
    if keys:
        tell(keys, f"{kind}  | {_site()}"[:LONGEST])
    return made


def _keys(made: Any) -> list[int]:
    if isinstance(made, ObjectRef):
        return [made._key]
    if isinstance(made, list):
        return [ref._key for ref in made]
    if isinstance(made, ActorInfo):
        return [made.actor]
    return [made._generator_ref._key] if isinstance(made, ObjectRefGenerator) else []


def _site() -> str:
    """``file:function:line`` of the program's innermost frames."""
    found: list[str] = []
    frame: Any = sys._getframe(2)
    while frame is not None and len(found) < DEEPEST:
        code = frame.f_code
        if code.co_filename != "<string>" and not code.co_filename.startswith(_HOME):
            found.append(f"{code.co_filename}:{code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return " | ".join(found)


def note(hub: Hub, keys: list[int], text: str) -> None:
    """Remember where objects were made, for as long as they are there."""
    sites = hub.history.sites
    for key in keys:
        sites[key] = text
    if len(sites) > 2 * len(hub.rows) + SLACK:
        for key in [key for key in sites if key not in hub.rows]:
            del sites[key]
