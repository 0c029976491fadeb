"""Identifiers: one 64-bit integer inside, Ray's fixed-length binary form outside.

An id is ``client << 40 | sequence``. A *client* is a process that names things (the driver, each worker), so ids are
made without asking anyone. A task with ``n`` returns takes ``n`` consecutive ids: the first is the task's own, and
return ``i`` is ``task + i``. Actors take one id each. Client numbers are never used twice in a driver's process, which
is why a reference of a session that ended can never name an object of the next one.
"""

from __future__ import annotations

import os

CLIENT_SHIFT = 40
JOB_ID = b"\x01\x00\x00\x00"
NIL_OBJECT = b"\xff" * 28
"""The id that names nothing; its key is 0."""
NIL_GROUP = b"\xff" * 18

FOREIGN = 1 << 256
"""Keys from here on are whole ids of another system, Ray's own: nothing is added to their bytes."""

_salt = os.urandom(12)


def salt() -> bytes:
    """12 random bytes that make the binary ids of one driver's process distinct from another's."""
    return _salt


def use_salt(value: bytes) -> None:
    """Adopt the driver's salt (in a worker), so that both print the same hex for the same id."""
    global _salt
    _salt = value


class IdSource:
    """Hands out ids of one client."""

    __slots__ = ("following",)

    def __init__(self, client: int) -> None:
        self.following = (client << CLIENT_SHIFT) + 1

    def take(self, count: int = 1) -> int:
        """Reserve `count` consecutive ids and return the first."""
        first = self.following
        self.following = first + count
        return first


def foreign(binary: bytes) -> int:
    """The key that stands for an id of another system."""
    return FOREIGN | int.from_bytes(binary, "big")


def task_binary(task: int) -> bytes:
    """24 bytes, as Ray's TaskID."""
    if task >= FOREIGN:
        return (task - FOREIGN).to_bytes(24, "big")
    return task.to_bytes(8, "big") + _salt + JOB_ID


def object_binary(key: int, index: int) -> bytes:
    """28 bytes, as Ray's ObjectID: the task's 24, then the return's number counted from 1."""
    if key == 0:
        return NIL_OBJECT
    if key >= FOREIGN:
        return (key - FOREIGN).to_bytes(28, "big")
    return task_binary(key - index) + (index + 1).to_bytes(4, "little")


def parse_object(binary: bytes) -> tuple[int, int]:
    """The inverse of `object_binary`: ``(key, index)``."""
    if len(binary) != 28:
        raise ValueError(f"an object id has 28 bytes, not {len(binary)}")
    if binary == NIL_OBJECT:
        return 0, 0
    if binary[8:24] != _salt + JOB_ID:
        return foreign(binary), 0
    index = int.from_bytes(binary[24:], "little") - 1
    return int.from_bytes(binary[:8], "big") + index, index


def actor_binary(actor: int) -> bytes:
    """16 bytes, as Ray's ActorID."""
    if actor >= FOREIGN:
        return (actor - FOREIGN).to_bytes(16, "big")
    return actor.to_bytes(8, "big") + _salt[:4] + JOB_ID


def parse_actor(binary: bytes) -> int:
    """The inverse of `actor_binary`."""
    if len(binary) != 16:
        raise ValueError(f"an actor id has 16 bytes, not {len(binary)}")
    return int.from_bytes(binary[:8], "big")


def group_binary(group: int) -> bytes:
    """18 bytes, as Ray's PlacementGroupID; 0 names nothing."""
    if group >= FOREIGN:
        return (group - FOREIGN).to_bytes(18, "big")
    return group.to_bytes(8, "big") + _salt[:6] + JOB_ID if group else NIL_GROUP


def parse_group(binary: bytes) -> int:
    """The inverse of `group_binary`."""
    if len(binary) != 18:
        raise ValueError(f"a placement group id has 18 bytes, not {len(binary)}")
    if binary == NIL_GROUP:
        return 0
    return int.from_bytes(binary[:8], "big") if binary[8:] == _salt[:6] + JOB_ID else foreign(binary)


def node_hex(number: int) -> str:
    """56 hex digits, as Ray's NodeID."""
    return (_salt * 3)[:24].hex() + number.to_bytes(4, "big").hex()


def worker_hex(client: int) -> str:
    """56 hex digits, as Ray's WorkerID."""
    return (client.to_bytes(8, "big") + _salt + _salt[:8]).hex()
