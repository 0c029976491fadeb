"""The controller: the actor that has what `state` decides done, and tells routers of it.

It is one of two actors that know everything. The other, the `Vault`, only keeps what is wanted, so that the controller
can be restarted: it reads the vault, finds the replicas by their names, and goes on. Requests never pass it.
"""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from typing import Any

import skate
from skate import exceptions
from skate.serve import board, context
from skate.serve.config import DeploymentConfig
from skate.serve.replica import Replica
from skate.serve.router import Published, ReplicaEntry
from skate.serve.specs import AppSpec
from skate.serve.state import (
    ApplicationStatus,
    Command,
    DeploymentState,
    Drain,
    Kill,
    Reconfigure,
    Start,
    Target,
    application_status,
)
from skate.serve.topics import Topics

clock = time.monotonic
Key = tuple[str, str]


class Vault:
    """Keeps what the controller must not forget, and the board's memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.board: board.Board | None = None

    def put(self, name: str, value: Any) -> None:
        """Keep a value."""
        self.kept[name] = value

    def drop(self, name: str) -> None:
        """Keep it no longer."""
        self.kept.pop(name, None)

    def everything(self) -> tuple[dict[str, Any], board.Place | None]:
        """All values, and where the board is found."""
        return self.kept, self.board.place if self.board is not None else None

    def hold(self, place: board.Place) -> board.Place | None:
        """Keep the board's memory, whatever becomes of who made it."""
        self.board = board.held(place)
        return self.board.place if self.board is not None else None


class App:
    """An application."""

    def __init__(self, spec: AppSpec, now: float) -> None:
        self.spec = spec
        self.deployed_at = time.time()
        self.deleting = False
        self.states: dict[str, DeploymentState] = {}


class Controller:
    """Deploys applications. Every method may be called at any time, from any process."""

    def __init__(self, fresh: bool, http: dict[str, Any] | None = None) -> None:
        self.apps: dict[str, App] = {}
        self.actors: dict[str, Any] = {}
        """Handles of replicas, by the names of their actors."""
        self.slots: dict[str, int] = {}
        self.next_slot = 1
        self.codes: dict[str, Any] = {}
        """References to pickled code, by the names that targets have for them."""
        self.topics = Topics()
        self.board: board.Board | None = None
        self.salt, self.salts = os.urandom(3).hex(), 0
        self.vault = skate.get_actor(context.VAULT, namespace=context.NAMESPACE)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.loop = asyncio.get_running_loop()
        self.ready = asyncio.Event()
        self.http = http or {}
        self.queued: dict[Key, dict[Any, tuple[int, float]]] = {}
        if fresh and not skate.get_runtime_context().was_current_actor_reconstructed:
            self._own_board()
            self.ready.set()
        else:
            self._task(self._recover())

    def _own_board(self) -> None:
        self.board = board.create()
        self.vault.hold.remote(self.board.place)

    def _salt(self) -> str:
        """Begins the names of one deployment's replicas."""
        self.salts += 1
        return f"{self.salt}{self.salts:x}-"

    def _task(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _recover(self) -> None:
        kept, place = await self.vault.everything.remote()
        self.board = board.attach(place) if place is not None else None
        if self.board is None or self.board.place is None:
            self._own_board()
        found = await asyncio.to_thread(_replicas_alive)
        now = clock()
        for name, value in kept.items():
            if name.startswith("app:"):
                self._set(value, now)
        for name in found:
            self._find_again(name, now)
        self.ready.set()
        self._decide()

    def _find_again(self, name: str, now: float) -> None:
        app_name, deployment, replica = context.parts_of(name)
        app = self.apps.get(app_name)
        state = app.states.get(deployment) if app is not None else None
        try:
            actor = skate.get_actor(name, namespace=context.NAMESPACE)
        except ValueError:
            return
        if state is None or state.target is None:
            skate.kill(actor)
            return
        state.adopt(replica, state.target, now)
        self._know(state, replica, actor)
        self._task(self._ask_back(state, replica, actor))

    async def _ask_back(self, state: DeploymentState, replica: str, actor: Any) -> None:
        try:
            version, light, slot = await actor.who.remote()
        except exceptions.RayError as error:
            state.died(replica, _short(error), clock())
        else:
            self.slots[replica] = slot
            self.next_slot = max(self.next_slot, slot + 1)
            state.recognise(replica, version, light)
        self._decide()

    # ------------------------------------------------------------------ what programs ask

    async def deploy(self, specs: list[AppSpec]) -> None:
        """Have these applications run in place of what they were; answers when that is on record."""
        await self.ready.wait()
        now = clock()
        for spec in specs:
            self._set(spec, now)
        kept = [self.vault.put.remote(f"app:{spec.name}", spec) for spec in specs]
        self._decide()
        for ref in kept:
            await ref

    def _set(self, spec: AppSpec, now: float) -> None:
        clash = [app.spec.name for app in self.apps.values() if _same_route(app.spec, spec)]
        if clash:
            raise ValueError(
                f"route_prefix {spec.route_prefix!r} of application {spec.name!r} belongs to {clash[0]!r} already"
            )
        app = self.apps.get(spec.name)
        if app is None:
            app = self.apps[spec.name] = App(spec, now)
        app.spec, app.deleting, app.deployed_at = spec, False, spec.deployed_at
        for name, state in app.states.items():
            if name not in spec.targets:
                state.delete()
        for name, target in spec.targets.items():
            state = app.states.get(name)
            if state is None:
                state = app.states[name] = DeploymentState(spec.name, name, self._salt())
            state.deploy(target, now)
            self.codes.setdefault(target.code, spec.codes[target.code])
        self._publish_routes()

    async def until_settled(self, names: list[str], timeout_s: float | None = None) -> dict[str, tuple[str, str]]:
        """Status and message of these applications once none of them is being deployed any more."""
        deadline = None if timeout_s is None else clock() + timeout_s
        while True:
            found = {name: self._app_status(name) for name in names}
            if all(status != ApplicationStatus.DEPLOYING for status, _ in found.values()):
                break
            if deadline is not None and clock() >= deadline:
                break
            await self.topics.changed(None if deadline is None else deadline - clock())
        return {name: (status.value, message) for name, (status, message) in found.items()}

    def _app_status(self, name: str) -> tuple[ApplicationStatus, str]:
        app = self.apps.get(name)
        if app is None:
            return ApplicationStatus.NOT_STARTED, ""
        return application_status(list(app.states.values()), app.deleting)

    async def delete(self, names: list[str], *, wait: bool = True) -> list[str]:
        """End these applications; the names of those that there were."""
        await self.ready.wait()
        known = [name for name in names if name in self.apps]
        for name in known:
            app = self.apps[name]
            app.deleting = True
            for state in app.states.values():
                state.delete()
        kept = [self.vault.drop.remote(f"app:{name}") for name in known]
        self._publish_routes()
        self._decide()
        for ref in kept:
            await ref
        while wait and any(name in self.apps and self.apps[name].deleting for name in known):
            await self.topics.changed(None)
        return known

    async def status(self) -> dict[str, Any]:
        """What runs, as plain values."""
        await self.ready.wait()
        return {"applications": {name: self._app_row(name, app) for name, app in self.apps.items()}}

    def _app_row(self, name: str, app: App) -> dict[str, Any]:
        status, message = self._app_status(name)
        return {
            "status": status.value,
            "message": message,
            "route_prefix": app.spec.route_prefix,
            "docs_path": None,
            "ingress": app.spec.ingress,
            "last_deployed_time_s": app.deployed_at,
            "deployments": {
                state.name: {
                    "status": state.status.value,
                    "status_trigger": state.trigger,
                    "message": state.message,
                    "target_num_replicas": state.target.replicas if state.target is not None else 0,
                    "replica_states": state.counts(),
                    "replicas": [
                        {"replica_id": entry.name, "state": entry.phase.value, "ongoing": self._ongoing(entry.name)}
                        for entry in state.replicas.values()
                    ],
                    "queued": sum(number for number, _ in self.queued.get((name, state.name), {}).values()),
                }
                for state in app.states.values()
            },
        }

    def _ongoing(self, replica: str) -> int:
        slot = self.slots.get(replica)
        if slot is None or self.board is None:
            return 0
        return int(self.board.words[board.word_of(slot)])

    async def listen(self, known: dict[tuple[str, ...], int], timeout_s: float) -> dict[Any, tuple[int, Any]]:
        """Of these topics those that changed since the versions given, once there is one, or when time is up."""
        await self.ready.wait()
        for key in known:
            if key[0] == "replicas" and not self.topics.has(key):
                self._publish(key[1], key[2])
        return await self.topics.listen(known, timeout_s)

    async def waiting(self, app: str, deployment: str, router: Any, number: int) -> None:
        """A router tells how many requests wait there."""
        self.queued.setdefault((app, deployment), {})[router] = (number, clock())
        self._decide()

    async def get_http(self) -> dict[str, Any]:
        """Options that serve was started with."""
        return self.http

    async def shutdown(self) -> None:
        """End all applications and replicas; answers when they are gone."""
        await self.ready.wait()
        await self.delete(list(self.apps))

    # ------------------------------------------------------------------ having it done

    def _decide(self) -> None:
        """Have done what is to be done now, tell of it, and look again when the time comes."""
        now, soonest = clock(), None
        for name, app in list(self.apps.items()):
            for state in list(app.states.values()):
                for command in state.decide(now):
                    self._do(state, command)
                self._publish(name, state.name)
                if state.target is None and not state.replicas:
                    del app.states[state.name]
                    self._publish(name, state.name)
                    continue
                at = state.next_look(now)
                soonest = at if soonest is None or (at is not None and at < soonest) else soonest
            if app.deleting and not app.states:
                del self.apps[name]
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_later(max(0.0, soonest - now), self._decide) if soonest is not None else None
        self.topics.notify()

    def _do(self, state: DeploymentState, command: Command) -> None:
        if isinstance(command, Start):
            self._start(state, command)
            return
        actor = self.actors.get(command.replica)
        if actor is None:
            state.died(command.replica, "it was not there", clock())
        elif isinstance(command, Reconfigure):
            self._task(self._reconfigure(state, command, actor))
        elif isinstance(command, Drain):
            self._task(self._drain(state, command.replica, actor))
        elif isinstance(command, Kill):
            skate.kill(actor)

    def _start(self, state: DeploymentState, command: Start) -> None:
        target, name = command.target, command.replica
        full = context.ReplicaID(name, state.name, state.app).to_full_id_str()
        slot = self.slots[name] = self.next_slot
        self.next_slot = self.next_slot % (board.SLOTS - 1) + 1
        assert self.board is not None
        words, word = self.board.words, board.word_of(slot)
        words[word] = words[word + board.BEGUN] = 0
        try:
            actor = (
                skate.remote(Replica)
                .options(**_actor_options(target.config, full))
                .remote(name, state.name, state.app, slot, self.board.place)
            )
        except (exceptions.RayError, ValueError, TypeError) as error:
            self.loop.call_soon(self._failed_to_start, state, name, _short(error))
            return
        self._know(state, name, actor)
        self._task(self._see_up(state, name, actor, target))

    def _failed_to_start(self, state: DeploymentState, name: str, why: str) -> None:
        state.failed(name, why, clock())
        self._decide()

    def _know(self, state: DeploymentState, name: str, actor: Any) -> None:
        self.actors[name] = actor
        self._task(self._see_end(state, name, actor))

    async def _see_up(self, state: DeploymentState, name: str, actor: Any, target: Target) -> None:
        placed = actor.placed.remote()
        code = self.codes[target.code]
        started = actor.start.remote(code, target.config, target.version, target.light)
        try:
            await placed
            state.placed(name)
            await started
        except exceptions.RayError as error:
            state.failed(name, _told(error), clock())
            skate.kill(actor)
        else:
            state.started(name, clock())
            if target.config.health_check_period_s:
                self._task(self._check(state, name, actor))
        self._decide()

    async def _see_end(self, state: DeploymentState, name: str, actor: Any) -> None:
        """Wait for a replica's end, however it comes."""
        why = "it ended"
        while True:
            try:
                await actor.lives.remote()
            except exceptions.ActorUnavailableError:
                await asyncio.sleep(0.1)
                continue
            except exceptions.RayError as error:
                why = _short(error)
            break
        self.actors.pop(name, None)
        self.slots.pop(name, None)
        state.died(name, why, clock())
        self._decide()

    async def _reconfigure(self, state: DeploymentState, command: Reconfigure, actor: Any) -> None:
        try:
            await actor.configure.remote(command.target.config, command.target.light)
        except exceptions.RayError as error:
            state.failed(command.replica, _told(error), clock())
            skate.kill(actor)
        else:
            state.reconfigured(command.replica, command.target.light)
        self._decide()

    async def _drain(self, state: DeploymentState, name: str, actor: Any) -> None:
        config = state.replicas[name].target.config if name in state.replicas else DeploymentConfig()
        try:
            await actor.drain.remote(config.graceful_shutdown_wait_loop_s, config.graceful_shutdown_timeout_s)
        except exceptions.RayError as error:
            print(f"serve: replica {name} of {state.name} ended badly: {_short(error)}")
        skate.kill(actor)

    async def _check(self, state: DeploymentState, name: str, actor: Any) -> None:
        """Look after a replica's health for as long as it is there."""
        while name in self.actors:
            entry = state.replicas.get(name)
            if entry is None:
                return
            config = entry.target.config
            await asyncio.sleep(config.health_check_period_s)
            problem = ""
            try:
                await asyncio.wait_for(_awaited(actor.check.remote()), config.health_check_timeout_s)
            except TimeoutError:
                problem = f"check_health did not answer within {config.health_check_timeout_s} s"
            except exceptions.RayActorError:
                return  # its end is seen elsewhere
            except exceptions.RayError as error:
                problem = _told(error)
            if state.checked(name, problem, clock()):
                self._decide()
                return

    # ------------------------------------------------------------------ telling of it

    def _publish(self, app_name: str, deployment: str) -> None:
        app = self.apps.get(app_name)
        state = app.states.get(deployment) if app is not None else None
        key = ("replicas", app_name, deployment)
        if state is None:
            self.topics.set(key, Published((), -1, None, "there is no such deployment"))
            return
        replicas = tuple(
            ReplicaEntry(entry.name, self.actors[entry.name], self.slots[entry.name],
                         entry.target.config.max_ongoing_requests)
            for entry in state.running() if entry.name in self.actors and entry.name in self.slots
        )  # fmt: skip
        config = state.target.config if state.target is not None else None
        why = ""
        if state.target is None and not replicas:
            why = "it is being deleted"
        elif state.status.value == "DEPLOY_FAILED" and not replicas:
            why = "it could not be deployed"
        every = config.autoscaling_config.metrics_interval_s if config and config.autoscaling_config else 0.0
        place = self.board.place if self.board is not None else None
        self.topics.set(key, Published(replicas, config.max_queued_requests if config else -1, place, why, every))

    def _publish_routes(self) -> None:
        """Which application answers which paths: prefix -> (application, ingress deployment, its options)."""
        routes = {
            app.spec.route_prefix: (name, app.spec.ingress, app.spec.ingress_options)
            for name, app in self.apps.items()
            if app.spec.route_prefix is not None and not app.deleting
        }
        self.topics.set(("routes",), routes)
        self.topics.notify()


async def _awaited(ref: Any) -> Any:
    return await ref


def _same_route(one: AppSpec, other: AppSpec) -> bool:
    return one.name != other.name and one.route_prefix is not None and one.route_prefix == other.route_prefix


def _replicas_alive() -> list[str]:
    rows = skate.util.list_named_actors(all_namespaces=True)
    return [row["name"] for row in rows if row["namespace"] == context.NAMESPACE and context.is_replica(row["name"])]  # type: ignore[index]


def _actor_options(config: DeploymentConfig, name: str) -> dict[str, Any]:
    given = {key: value for key, value in config.ray_actor_options.items() if value is not None}
    return {
        "num_cpus": 0,
        **given,
        "name": name,
        "namespace": context.NAMESPACE,
        "lifetime": "detached",
        "max_concurrency": 100_000,
    }


def _short(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _told(error: BaseException) -> str:
    """An error as the user reads it: the trace of what his code raised."""
    if isinstance(error, exceptions.RayTaskError):
        return str(error.traceback_str).strip()
    if isinstance(error, exceptions.RayError):
        return str(error)
    return "".join(traceback.format_exception(error))
