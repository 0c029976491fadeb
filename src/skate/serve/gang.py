"""What a replica knows of its gang."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GangContext:
    """Of a replica that is one of a gang.

    Args:
        gang_id: names the gang.
        rank: the replica's number in it.
        world_size: replicas in it.
        member_replica_ids: their own ids, by rank.
        pg_name: its placement group.
    """

    gang_id: str
    rank: int
    world_size: int
    member_replica_ids: list[str]
    pg_name: str = ""
