"""A driver goes: what was its own ends with it, and nothing else.

Its own is what carries its job's number: its calls, their children, its actors, its placement groups. Not so its
detached actors, and what those have made: calls and actors whose caller, or whose caller's caller, is a detached actor
go on.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from skate.core import ids
from skate.engines.local import errors
from skate.engines.local.jobs import Job, Jobs
from skate.engines.local.messages import Leave
from skate.engines.local.rows import FAILED, METHOD, Node, Row, Worker
from skate.exceptions import OwnerDiedError

if TYPE_CHECKING:
    from skate.engines.local.hub import Hub


def end_job(hub: Hub, jobs: Jobs, job: Job) -> None:
    """End a job's calls, actors and workers, but for what its detached actors need."""
    rows = [(key, row) for key, row in hub.rows.items() if row.spec is not None and _job(jobs, row) is job]
    stay = _what_stays(hub, job, [row for _, row in rows])
    for key, row in rows:
        if row.spec is None or row.owner in stay or _is_detached(row):
            continue
        if row.actor is not None:
            _end_actor(hub, row)
        elif row.maker == METHOD and row.worker is None:
            hub._cancel(row, row.spec, False, False)  # one that was sent runs to its end: it may be another's actor
        elif row.maker == METHOD:
            continue
        elif row.worker is not None and row.worker in stay:
            hub._cancel(row, row.spec, False, False)
        else:
            gone = OwnerDiedError(ids.object_binary(key, 0).hex(), message="The driver that had it made has ended.")
            hub.finish(row, FAILED, errors.packed(gone))
    for group in list(hub.scheduler.groups.live.values()):
        owner = group.owner
        if owner is not None and owner.job is job and owner not in stay and not group.spec.detached:
            hub.unreserve(group.key)
    for worker in list(hub.workers.values()):
        if worker.job is job and worker not in stay and worker is not job.peer:
            _end_worker(hub, worker)


def retire_idle(hub: Hub) -> None:
    """Let the workers go that have ended what a driver's detached actors had them do, when the driver is gone."""
    for worker in list(hub.workers.values()):
        job = worker.job
        if job is None or job.peer is not None or worker.leaving or not worker.up:
            continue
        if worker.actor is None and worker.family is None and not worker.running:
            hub.scheduler.gone(worker)
            worker.leaving = ("idle", False)
            worker.link.send(Leave())
    for group in list(hub.scheduler.groups.live.values()):
        owner = group.owner
        if owner is not None and not group.spec.detached and _is_over(hub, owner):
            hub.unreserve(group.key)


def _is_over(hub: Hub, maker: Worker) -> bool:
    """Whether what made something has ended for good: its driver has gone, and it was, or has become, nobody else's."""
    job, actor = maker.job, maker.actor
    alive = not actor.dead if actor is not None else maker.client in hub.workers
    return job is not None and job.peer is None and not alive


def tidy(hub: Hub, jobs: Jobs) -> None:
    """Forget what the scheduler knows of drivers that have gone, but for those whose actors live on."""
    needed = {worker.job for worker in hub.workers.values()}
    alive = {actor.info.options.environment for actor in hub.actors.values() if not actor.dead}
    needed |= {jobs.of(environment) for environment in alive}
    used = {worker.environment for worker in hub.workers.values()} | alive

    def over(environment: str) -> bool:
        job = jobs.of(environment)
        if job is None:  # the hub's own driver's; where there is none, a submitted job's
            return jobs.alone and environment != "" and environment not in used
        return job.peer is None and job not in needed

    scheduler = hub.scheduler
    for key, family in list(scheduler.families.items()):
        if over(family.environment) and family not in scheduler.waiting and not family.workers:
            del scheduler.families[key]
            hub.doubtful.discard(family)
    hub._families.clear()  # it may name families that are gone
    for table in (scheduler.resting, hub.stillborn, *(t for node in scheduler.nodes.values() for t in _tables(node))):
        for environment in [environment for environment in table if over(environment)]:
            del table[environment]
    if jobs.alone:  # elsewhere they may be the hub's own driver's
        over_jobs = {job for job in jobs.jobs.values() if job.peer is None and job not in needed}
        _forget_definitions(hub, over_jobs, jobs)
    jobs.forget_old({job.number for job in needed if job is not None})


def _forget_definitions(hub: Hub, over: set[Job], jobs: Jobs) -> None:
    """Drop the functions and classes of drivers that are over, unless another has sent them too, or a call is left."""
    gone: set[bytes] = set().union(*(job.exports for job in over))
    if not gone:
        return
    gone.difference_update(*(job.exports for job in jobs.jobs.values() if job not in over))
    gone.difference_update(row.spec.function for row in hub.rows.values() if row.spec is not None)
    gone.difference_update(recipe.spec.function for recipe in hub.recipes.values())
    for function in gone:
        hub.definitions.pop(function, None)
        hub.scheduler.speed.pop(function, None)
    for job in over:
        job.exports -= gone


def _tables(node: Node) -> tuple[dict[str, Any], dict[str, Any]]:
    return node.idle, node.starting


def _job(jobs: Jobs, row: Row) -> Job | None:
    if row.actor is None and row.maker == METHOD:
        return row.owner.job if row.owner is not None else None
    return jobs.of(row.options.environment) if row.options is not None else None


def _is_detached(row: Row) -> bool:
    return row.actor is not None and row.actor.info.options.detached


def _what_stays(hub: Hub, job: Job, rows: list[Row]) -> set[Worker]:
    """The workers of detached actors, and of what they have made."""
    made: dict[Worker, list[Row]] = {}
    for row in rows:
        if row.owner is not None:
            made.setdefault(row.owner, []).append(row)
    found = [worker for worker in hub.workers.values() if worker.job is job and _hosts_detached(worker)]
    stay = set(found)
    while found:
        for row in made.get(found.pop(), ()):
            worker = row.actor.worker if row.actor is not None else row.worker
            if worker is not None and worker not in stay and worker.job is job:
                stay.add(worker)
                found.append(worker)
    return stay


def _hosts_detached(worker: Worker) -> bool:
    return worker.actor is not None and worker.actor.info.options.detached


def _end_actor(hub: Hub, row: Row) -> None:
    actor = row.actor
    assert actor is not None
    if actor.dead:
        return
    worker = actor.worker
    reason = f"The actor {errors.name_of(actor)} ended: the driver that made it has ended, and it is not detached."
    hub.bury(actor, errors.actor_died(actor, reason))
    if worker is not None:
        _end_worker(hub, worker)


def _end_worker(hub: Hub, worker: Worker) -> None:
    """End a worker of a driver that is gone, and take nothing more from it: it may have made calls just now."""
    worker.outlaw = worker.outlaw or "belonged to a driver that has ended"
    hub.ports.signal(worker, signal.SIGKILL)
