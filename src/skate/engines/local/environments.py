"""The driver's side of runtime environments: what is being made, what is ready, and who waits for it.

A worker of an environment that is not ready yet is a record like that of one that starts: its pipes are there, and its
process is forked when all that the environment needs has been made. So the scheduler knows of no other kind of waiting.
What has to be made is made by processes (`builds.py`), and the pump hears when one ends: nothing here ever blocks.

Workers of an environment with an interpreter of its own are forked by a zygote that this runs (`nursery.py`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from skate.core.environment import JOB, LOGS, merge_environments, shown_environment, unpack_environment
from skate.engines import setup
from skate.engines.local.builds import Build
from skate.engines.local.pool import Pipes, Pool, pipes

if TYPE_CHECKING:
    from skate.core.env_cache import Lock
    from skate.engines.local.host import Host
    from skate.engines.local.nursery import Nursery
    from skate.engines.local.recipes import Need, Recipe
    from skate.engines.local.rows import Worker

REST = 60.0
"""Seconds after which an interpreter's idle workers end, and then its zygote."""
TRIES = 3
"""How often something is made that others delete before it can be used."""


class Ground:
    """An environment, as far as it has come."""

    __slots__ = ("began", "held", "making", "missing", "nursery", "path", "recipe", "setup", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.recipe: Recipe | None = None
        self.setup: str | None = None
        """What its workers do first; None while something is missing."""
        self.path: list[str] = []
        """The search path of its driver."""
        self.missing: set[str] = set()
        """Needs that are being made."""
        self.making = False
        self.began = 0.0
        """When it was begun; another time when it was begun again."""
        self.held: list[Worker] = []
        """Workers that are to be forked once it is ready."""
        self.nursery: Nursery | None = None


class Environments:
    """All environments of a session. Its methods are called with the engine's lock, but for `close`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.grounds: dict[str, Ground] = {}
        """By what calls ask for, without the job's part."""
        self.builds: dict[str, Build] = {}
        self.made: dict[str, dict[str, Any]] = {}
        """What builders said, by the key of the need."""
        self.locks: dict[str, Lock] = {}
        self.nurseries: dict[str, Nursery] = {}
        self.homes: dict[int, Nursery] = {}
        """Of workers that another zygote than the session's has forked, by client."""
        self.given: dict[int, list[int]] = {}
        """The pipes' other ends of workers that are not forked yet."""
        self.closed = False

    def rows(self) -> list[dict[str, Any]]:
        """The table ``runtime_envs``: those that are ready, with how many workers each has."""
        asked = [shown_environment(worker.environment) for worker in self.host.hub.workers.values()]
        return [
            {
                "runtime_env": unpack_environment(text),
                "success": True,
                "creation_time_ms": None,
                "node_id": self.host.hub.scheduler.head.hex,
                "ref_cnt": asked.count(text),
                "error": None,
            }
            for text, ground in self.grounds.items()
            if text and ground.setup is not None
        ]

    def begin(self) -> None:
        """Begin with the job's environment, if it is to be ready early."""
        text = self.host.settings.environment
        if unpack_environment(text).get("config", {}).get("eager_install", True):
            self._ground("")

    # ------------------------------------------------------------------- workers

    def pipes(self, client: int) -> Pipes:
        """Pipes of a worker that is forked when its environment is ready."""
        kept, self.given[client] = pipes()
        return kept

    def place(self, worker: Worker) -> None:
        """Have a worker forked in its environment, as soon as that is ready."""
        ground = self._ground(worker.environment)
        ground.held.append(worker)
        if ground.setup is not None:
            self._release(ground)

    def home(self, worker: Worker) -> Pool | None:
        """Whose child a worker is, if it is not one of the session's own zygote."""
        nursery = self.homes.get(worker.client)
        return nursery.pool if nursery is not None else None

    def zygotes(self) -> list[int]:
        """The processes that fork workers of interpreters."""
        return [nursery.pool.pid for nursery in self.nurseries.values()]

    # -------------------------------------------------------------------- making

    def _ground(self, text: str) -> Ground:
        ground = self.grounds.get(text)
        if ground is None:
            ground = self.grounds[text] = Ground(text)
        if ground.setup is None and not ground.making:
            ground.making = True
            ground.began = time.monotonic()
            try:
                self._make(ground)
            except (msgspec.MsgspecError, ValueError, OSError, TypeError, KeyError, AttributeError) as problem:
                # It was checked where it was written; since then files may have gone, or somebody sends nonsense.
                self._fail(ground, f"{type(problem).__name__}: {problem}")
        return ground

    def _make(self, ground: Ground) -> None:
        job = self.host.jobs.of(ground.text)
        fields = unpack_environment(merge_environments(self.host.job_environment(job), shown_environment(ground.text)))
        ground.path = self.host.search_path(job)
        if fields.keys() <= {"env_vars", "config", LOGS}:
            ground.setup = json.dumps(setup.plan(fields, str))
            return
        from skate.engines.local import recipes

        ground.recipe = recipe = recipes.resolve(fields, self.host.settings.folder, ground.path)
        ground.missing = {need.key for need in recipe.needs if not self._is_met(need)}
        if recipe.timeout is not None and (recipe.needs or recipe.interpreter):
            late = partial(self._late, ground, ground.began, recipe.timeout)
            self.host.hub.timers.at(self.host.hub.timers.clock() + recipe.timeout, late)
        for need in recipe.needs:
            if need.key in ground.missing and need.key not in self.builds:
                self._build(need, fields)
        if not ground.missing:
            self._finished(ground)

    def _is_met(self, need: Need) -> bool:
        if need.key in self.made:
            return True
        from skate.engines.local import recipes

        held = recipes.in_cache(need)
        if held is None:
            return False
        self.locks[need.key], self.made[need.key] = held
        return True

    def _build(self, need: Need, fields: dict[str, Any]) -> None:
        folder = fields.get("working_dir") or ""
        more = {"variables": fields.get("env_vars") or {}, "working_dir": folder}
        self._watch(Build(need._replace(request={**need.request, **more}), self.host.path))

    def _watch(self, build: Build) -> None:
        self.builds[build.need.key] = build
        self.host.pump.watch(build.ended, lambda _: self._built(build))

    def _built(self, build: Build) -> None:
        """A builder has ended."""
        self.host.pump.unwatch(build.ended)
        del self.builds[build.need.key]
        said = build.close()
        waiting = [ground for ground in self.grounds.values() if build.need.key in ground.missing]
        if not build.need.cached and "error" not in said:
            self.made[build.need.key] = said
        if "error" not in said and not self._is_met(build.need):
            # Somebody has deleted it in between, or is just looking whether to.
            if build.tries < TRIES:
                self._watch(Build(build.need, self.host.path, build.tries + 1))
                return
            said = {"error": f"it was made {TRIES} times and is not in the cache: {build.need.key}"}
        if "error" in said:
            for ground in waiting:
                self._tell(ground, said["error"])
            return
        for ground in waiting:
            ground.missing.discard(build.need.key)
            if not ground.missing:
                self._finished(ground)

    def _finished(self, ground: Ground) -> None:
        assert ground.recipe is not None
        ground.setup = ground.recipe.setup(self.made)
        self._release(ground)

    # ----------------------------------------------------------------- processes

    def _release(self, ground: Ground) -> None:
        """The environment is ready: fork those that were held."""
        assert ground.setup is not None
        recipe = ground.recipe
        if recipe is not None and recipe.interpreter is not None:
            try:
                ground.nursery = self._nursery(recipe, ground.setup)
            except OSError as problem:
                self._fail(ground, f"{problem.filename or recipe.interpreter.command}: {problem.strerror or problem}")
                return
        nursery = ground.nursery
        held, ground.held = ground.held, []
        for worker in held:
            self.host.greet(worker, [] if nursery is not None else ground.path, ground.setup)
            given = self.given.pop(worker.client)
            if nursery is None:
                self.host.pool.send(worker.client, given)  # if it is gone, so is the session
            else:
                self.homes[worker.client] = nursery
                nursery.members.add(worker.client)
                nursery.pool.send(worker.client, given)  # if it is gone, its socket tells

    def _nursery(self, recipe: Recipe, setup: str) -> Nursery:
        from skate.engines.local.nursery import Nursery

        assert recipe.interpreter is not None
        mounts: list[str] = []
        if recipe.interpreter.image:
            entered = json.loads(setup)
            mounts = [*entered["path"], *([entered["folder"]] if entered["folder"] else [])]
        key = "\n".join([recipe.interpreter.key, *mounts, *recipe.path[0], *recipe.path[1]])
        nursery = self.nurseries.get(key)
        if nursery is None:
            nursery = self.nurseries[key] = Nursery(recipe, self.made, self.host.arena, mounts)
            self.host.pump.watch(nursery.pool.control.fileno(), partial(self._reports, nursery))
            if nursery.hatch is not None:
                self.host.pump.watch(nursery.hatch.listener.fileno(), partial(self._knock, nursery))
        return nursery

    def _knock(self, nursery: Nursery, _: int) -> None:
        assert nursery.hatch is not None
        self.host.pump.unwatch(nursery.hatch.listener.fileno())
        nursery.hatch.open()

    def _reports(self, nursery: Nursery, _: int) -> None:
        if not nursery.pool.reports(partial(self._report, nursery)):
            self._lost(nursery)

    def _report(self, nursery: Nursery, kind: str, client: int, number: int, peak: int) -> None:
        nursery.born = True
        if client not in nursery.members:
            return
        self.host.report(kind, client, number, peak)
        if kind == "ended":
            nursery.members.discard(client)
            self.homes.pop(client, None)
            nursery.quiet_since = time.monotonic()

    def _lost(self, nursery: Nursery) -> None:
        """The zygote of an interpreter is gone: with its workers, or it could not even begin."""
        self._end(nursery)
        grounds = [ground for ground in self.grounds.values() if ground.nursery is nursery]
        for ground in grounds:
            ground.nursery = None
            ground.setup, ground.making = None, False
            if not nursery.born:
                self.host.hub.unprepared(ground.text, nursery.why or nursery.words or f"{nursery.name} ended at once")
        for client in list(nursery.members):
            self.homes.pop(client, None)
            self._bury(client, "was lost with the process that starts workers of its environment")

    def _end(self, nursery: Nursery) -> None:
        self.nurseries = {key: other for key, other in self.nurseries.items() if other is not nursery}
        self.host.pump.unwatch(nursery.pool.control.fileno())
        if nursery.hatch is not None and nursery.hatch.descriptors:
            self.host.pump.unwatch(nursery.hatch.listener.fileno())
        nursery.close()

    def _bury(self, client: int, how: str) -> None:
        worker = self.host.hub.workers.get(client)
        if worker is not None:
            self.host._bury(worker, how)

    # ------------------------------------------------------------------ failures

    def _fail(self, ground: Ground, why: str) -> None:
        """Tell who waits for it, once the hub is not in the middle of something."""
        self._soon(lambda: self._tell(ground, why))

    def _soon(self, act: Callable[[], None]) -> None:
        def later() -> None:
            with self.host.lock:
                if not self.closed:
                    act()
                    self.host.posted()

        self.host.pump.calls.append(later)
        os.eventfd_write(self.host.pump.bell, 1)

    def _tell(self, ground: Ground, why: str) -> None:
        """An environment cannot be made: so says the error of those who wait for it. The next one tries again."""
        ground.missing.clear()
        ground.setup, ground.making = None, False
        self.host.hub.unprepared(ground.text, why)
        held, ground.held = ground.held, []
        for worker in held:
            for fd in self.given.pop(worker.client, ()):
                os.close(fd)
            self._bury(worker.client, "was not started")

    def _late(self, ground: Ground, began: float, seconds: float) -> None:
        """Time is up."""
        if not ground.making or ground.began != began:
            return
        why = f"it was not ready after {seconds:g} s; see setup_timeout_seconds in the config of runtime_env"
        nursery = ground.nursery
        if ground.setup is None:
            self._soon(lambda: self._give_up(ground, began, why))
        elif nursery is not None and not nursery.born:
            nursery.kill(why)

    def _give_up(self, ground: Ground, began: float, why: str) -> None:
        if ground.setup is not None or ground.began != began or not ground.making:
            return
        output = ""
        for key in list(ground.missing):
            build = self.builds.get(key)
            if build is None:
                continue
            output = output or build.output()
            if not any(key in other.missing for other in self.grounds.values() if other is not ground):
                self.host.pump.unwatch(build.ended)
                del self.builds[key]
                build.close()
        self._tell(ground, why + output)

    # ---------------------------------------------------------------------- ends

    def reap(self, now: float) -> None:
        """End interpreters that nobody has used for a while."""
        for nursery in list(self.nurseries.values()):
            if nursery.members:
                nursery.quiet_since = now
                for ground in self.grounds.values():
                    if ground.nursery is nursery:
                        self.host.hub.dismiss(ground.text, now, REST)
            elif now - nursery.quiet_since > REST:
                self._end(nursery)
                for ground in self.grounds.values():
                    if ground.nursery is nursery:
                        ground.nursery = None

        used = {worker.environment for worker in self.host.hub.workers.values()}
        jobs = self.host.jobs
        for text, ground in list(self.grounds.items()):
            job = jobs.of(text)
            over = job is None or job.peer is None if JOB in text else jobs.alone and text != ""  # a submitted job's
            if over and text not in used and not ground.missing:
                del self.grounds[text]
        self._let_go()

    def _let_go(self) -> None:
        """Give up the locks of what no environment needs any more: others may clear the cache of it."""
        recipes = [ground.recipe for ground in self.grounds.values() if ground.recipe is not None]
        recipes += [nursery.recipe for nursery in self.nurseries.values()]
        needed = {need.key for recipe in recipes for need in recipe.needs}
        for key in [key for key in self.locks if key not in needed]:
            self.locks.pop(key).close()
            del self.made[key]

    def close(self) -> None:
        """End every process, and give back what was held."""
        with self.host.lock:
            self.closed = True
            builds, self.builds = list(self.builds.values()), {}
            nurseries, self.nurseries = list(self.nurseries.values()), {}
        for build in builds:
            build.close()
        for nursery in nurseries:
            nursery.close()
        for fds in self.given.values():
            for fd in fds:
                os.close(fd)
        self.given.clear()
        for lock in self.locks.values():
            lock.close()
