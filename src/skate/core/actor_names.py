"""Errors about the names of actors, in the same words on every engine."""

from __future__ import annotations

from skate.exceptions import ActorAlreadyExistsError


def name_taken(name: str, namespace: str) -> ActorAlreadyExistsError:
    """The error of a new actor whose name another one has that lives."""
    return ActorAlreadyExistsError(
        f"The actor name {name!r} is taken in namespace {namespace!r}. Choose another one, use get_actor, or pass "
        "get_if_exists=True."
    )


def no_such_actor(name: str, namespace: str) -> ValueError:
    """The error of who looks for an actor that is not there."""
    return ValueError(f"Failed to look up actor with name {name!r}: there is none in namespace {namespace!r}.")
