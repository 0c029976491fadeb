"""The controller: the actor that has what `state` decides done, and tells routers of it.

It knows everything, and only the `vault` remembers what is wanted. So it can be restarted: it reads the vault, finds
the replicas by their names, and goes on. Requests never pass it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import traceback
from dataclasses import replace
from typing import Any

import skate
from skate import exceptions
from skate.serve import board, context, telling
from skate.serve.autoscaling import Autoscaler
from skate.serve.declared import Declared
from skate.serve.exceptions import RouteTakenError
from skate.serve.fronts import Fronts
from skate.serve.specs import AppSpec
from skate.serve.state import DeploymentState, application_status
from skate.serve.target import ApplicationStatus, DeploymentStatus, Target
from skate.serve.tending import Tender
from skate.serve.topics import Topics

clock = time.monotonic
Key = tuple[str, str]
VAULT_AGAIN_S = 0.05
LEARN_AGAIN_S = 0.2
FORGET_S = 10.0
"""Seconds for which what a router told of its queue is believed."""


class App:
    """An application."""

    def __init__(self, spec: AppSpec) -> None:
        self.spec = spec
        self.deleting = False
        self.states: dict[str, DeploymentState] = {}


class Controller:
    """Deploys applications. Every method may be called at any time, from any process.

    Args:
        fresh: whether there is nothing to be found again.
        settings: the options that serve was started with.
    """

    def __init__(self, fresh: bool, settings: dict[str, Any] | None = None) -> None:
        self.fresh = fresh
        self.settings = settings or {}
        self.apps: dict[str, App] = {}
        self.topics = Topics()
        self.tender = Tender(self.decide, self._noted)
        self.scalers: dict[Key, Autoscaler] = {}
        self.queued: dict[Key, dict[Any, tuple[int, float]]] = {}
        """What routers told of how many requests wait there, and when."""
        self.salt, self.salts = os.urandom(3).hex(), 0
        self.vault = skate.get_actor(context.VAULT, namespace=context.NAMESPACE)
        self.record: dict[str, Any] = {}
        """What the vault keeps."""
        self.declared = Declared(
            self.deploy,
            lambda names: self.delete(names, wait=False),
            self._keep,
            self._drop,
            self.topics.notify,
        )
        self.fronts = Fronts(
            lambda: {known.node for known in self.tender.tended.values() if known.node}, lambda: self.settings
        )
        self.timer: asyncio.TimerHandle | None = None
        self.scaling: asyncio.TimerHandle | None = None
        self.ready = asyncio.Event()
        self.begun = False
        with contextlib.suppress(RuntimeError):  # on some engines there is no loop yet: then the first call begins
            asyncio.get_running_loop()
            self.tender.task(self._begin())

    async def _begin(self) -> None:
        """Return when everything is known again. The first call of a controller's life sees to it."""
        if not self.begun:
            self.begun = True
            # in a task of its own: what becomes of the call that happens to be the first shall not matter
            self.tender.task(self._learn())
        await self.ready.wait()

    async def _learn(self) -> None:
        """Get to know everything, however often it takes: actors that are asked may just be starting, or dying."""
        fresh = self.fresh and not skate.get_runtime_context().was_current_actor_reconstructed
        while not self.ready.is_set():
            try:
                if fresh:
                    await self._own_board()
                else:
                    await self._recover()
            except Exception:  # noqa: BLE001  whatever it is: a controller that gives up would hold everybody up
                traceback.print_exc()
                await asyncio.sleep(LEARN_AGAIN_S)
            else:
                self.ready.set()
        self.tender.task(self._see_vault())
        self.tender.task(self.fronts.watch())
        self.decide()

    def _keep(self, name: str, value: Any) -> Any:
        """Put something on record; a reference that is ready when it is there."""
        self.record[name] = value
        return self.vault.put.remote(name, value)

    def _drop(self, name: str) -> Any:
        """Take something off the record."""
        self.record.pop(name, None)
        return self.vault.drop.remote(name)

    async def _see_vault(self) -> None:
        """Fill the vault that takes the place of one that died."""
        while True:
            try:
                await self.vault.lives.remote()
            except exceptions.ActorDiedError:
                return  # it was ended, and so are we
            except exceptions.RayError:
                await asyncio.sleep(VAULT_AGAIN_S)
            with contextlib.suppress(exceptions.RayError):  # then the next turn sees to it
                page = self.tender.board
                there = await self.vault.refill.remote(self.record, page.place if page is not None else None)
                if page is not None:
                    page.found_at(there)

    async def _own_board(self) -> None:
        """A new board. It is found in the vault too: who looks for it may do so just when this controller dies."""
        self.tender.board = page = board.create(alone=self.settings.get("pid") == os.getpid())
        page.found_at(await self.vault.hold.remote(page.place))

    async def _recover(self) -> None:
        kept, place = await self.vault.everything.remote()
        self.record = dict(kept)
        page = board.held(place) if place is not None else None
        if page is None or page.place is None:
            await self._own_board()
        else:
            self.tender.board = page
        self.settings = kept.pop("settings", self.settings)
        for name, spec in kept.items():
            if name.startswith("app:"):
                self._set(spec, clock())
        self.declared.recover(kept)
        names = filter(context.is_replica, context.names())
        await asyncio.gather(
            *(self.tender.find_again(self.apps.get(context.parts_of(name)[0]), name) for name in names)
        )
        wanted = {
            (name, state.name, version)
            for name, app in self.apps.items()
            for state in app.states.values()
            for version in state.versions()
        }
        self.tender.shared.end_others(context.names(), wanted)
        self.tender.remove_groups()
        for app in self.apps.values():
            for state in app.states.values():
                state.mend_gangs(clock())
                self.tender.find_shared(state)
                scaling = state.target.config.autoscaling_config if state.target is not None else None
                there = len(state.live())
                if scaling is not None and there:
                    state.scale(max(scaling.min_replicas, min(scaling.max_replicas, there)))

    # ------------------------------------------------------------------ what programs ask

    async def deploy(self, specs: list[AppSpec]) -> None:
        """Have these applications run in place of what they were; answers when that is on record."""
        await self._begin()
        for spec in specs:
            self._check_route(spec, specs)
        for spec in specs:
            if spec.declared is None:
                self.declared.drop(spec.name)
            self._set(spec, clock())
        kept = [self._keep(f"app:{spec.name}", spec) for spec in specs]
        self.decide()
        await _recorded(kept)

    async def apply(self, config: dict[str, Any]) -> None:
        """Have the applications of a configuration run, and of those declared before no others. See `Declared`."""
        await self._begin()
        await self.declared.apply(config)

    async def scale(self, app: str, deployment: str, replicas: int) -> None:
        """Have so many replicas, as an external scaler says.

        Raises KeyError when there is no such deployment, RuntimeError when its application has no external scaler.
        """
        await self._begin()
        state = self._state(app, deployment)
        if state is None or state.target is None:
            raise KeyError(f"There is no deployment {deployment!r} of an application {app!r}")
        declared = (self.declared.configs.get(app) or {}).get("external_scaler_enabled")
        if not (declared or self.apps[app].spec.external_scaler):
            raise RuntimeError(f"external_scaler_enabled is not set for application {app!r}, so that it is not scaled.")
        if state.scale(replicas):
            self.decide()

    def _check_route(self, spec: AppSpec, others: list[AppSpec]) -> None:
        taken = [app.spec for app in self.apps.values() if not app.deleting]
        anew = {other.name for other in others}
        for other in [*(each for each in taken if each.name not in anew), *others]:
            same = other.route_prefix is not None and other.route_prefix == spec.route_prefix
            if same and other.name != spec.name:
                raise RouteTakenError(
                    f"route_prefix {spec.route_prefix!r} of application {spec.name!r} belongs to application "
                    f"{other.name!r} already"
                )

    def _set(self, spec: AppSpec, now: float) -> None:
        app = self.apps.get(spec.name)
        if app is None:
            app = self.apps[spec.name] = App(spec)
        app.spec, app.deleting = spec, False
        for name, state in app.states.items():
            if name not in spec.targets:
                state.delete()
        for name, target in spec.targets.items():
            if name not in app.states:
                self.salts += 1
                app.states[name] = DeploymentState(spec.name, name, f"{self.salt}{self.salts:x}-")
            state = app.states[name]
            if target.config.logging_config is None and (logging := self.settings.get("logging")):
                target = replace(target, config=replace(target.config, logging_config=logging))
            self.tender.codes.setdefault(target.code, spec.codes[target.code])
            state.deploy(self._scaled(state, target), now)
        self._publish_routes()

    def _scaled(self, state: DeploymentState, target: Target) -> Target:
        """A target with as many replicas as autoscaling had it at."""
        scaling, old = target.config.autoscaling_config, state.target
        key = (state.app, state.name)
        if scaling is None:
            self.scalers.pop(key, None)
            return target
        if key not in self.scalers or self.scalers[key].config != scaling:
            self.scalers[key] = Autoscaler(scaling, *key)
            self._scale_soon()
        if old is None or old.config.autoscaling_config is None or scaling.initial_replicas is not None:
            return target
        return target.with_replicas(max(scaling.min_replicas, min(scaling.max_replicas, old.replicas)))

    async def until_settled(self, names: list[str], timeout_s: float | None = None) -> tuple[dict[str, Any], Any]:
        """Status and message of these applications once none of them is being deployed any more, and what is told of
        their ingress deployments.
        """
        await self._begin()
        deadline = None if timeout_s is None else clock() + timeout_s
        while True:
            found = {name: self._app_status(name) for name in names}
            if all(status != ApplicationStatus.DEPLOYING for status, _ in found.values()):
                break
            if deadline is not None and clock() >= deadline:
                break
            await self.topics.changed(None if deadline is None else deadline - clock())
        keys = [("replicas", name, self.apps[name].spec.ingress) for name in names if name in self.apps]
        told = {key: self.topics.values[key] for key in keys if self.topics.has(key)}
        return {name: (status.value, message) for name, (status, message) in found.items()}, told

    def _app_status(self, name: str) -> tuple[ApplicationStatus, str]:
        app = self.apps.get(name)
        declared = self.declared.status(name)
        if declared is not None and (app is None or not app.deleting):
            return declared
        if app is None:
            return ApplicationStatus.NOT_STARTED, ""
        return application_status(list(app.states.values()), app.deleting)

    async def delete(self, names: list[str], *, wait: bool = True) -> list[str]:
        """End these applications; the names of those that there were."""
        await self._begin()
        for name in names:
            self.declared.drop(name)
        known = [name for name in names if name in self.apps]
        for name in known:
            app = self.apps[name]
            app.deleting = True
            for state in app.states.values():
                state.delete()
        kept = [self._drop(f"app:{name}") for name in known]
        self._publish_routes()
        self.decide()
        await _recorded(kept)
        while wait and any(name in self.apps and self.apps[name].deleting for name in known):
            await self.topics.changed(None)
        return known

    async def status(self) -> dict[str, Any]:
        """What runs, as plain values."""
        await self._begin()
        return {
            "applications": {name: self._app_row(name) for name in {**self.apps, **self.declared.configs}},
            "controller": context.whereabouts(),
        }

    def _app_row(self, name: str) -> dict[str, Any]:
        status, message = self._app_status(name)
        app, config = self.apps.get(name), self.declared.configs.get(name)
        return {
            "status": status.value,
            "message": message,
            "route_prefix": app.spec.route_prefix if app else (config or {}).get("route_prefix", "/"),
            "ingress": app.spec.ingress if app else "",
            "docs_path": app.spec.docs_path() if app else None,
            "last_deployed_time_s": app.spec.deployed_at if app else 0.0,
            "declared": config,
            "external_scaler": app is not None and app.spec.external_scaler,
            "deployments": {state.name: self._row(state) for state in app.states.values()} if app else {},
        }

    def _row(self, state: DeploymentState) -> dict[str, Any]:
        key = (state.app, state.name)
        scaler = self.scalers.get(key)
        return telling.row(state, self.tender, self._queued(key, clock()), scaler.problem if scaler else "")

    async def listen(self, known: dict[tuple[str, ...], int], timeout_s: float) -> dict[Any, tuple[int, Any]]:
        """Of these topics those that changed since the versions given, once there is one, or when time is up."""
        await self._begin()
        for key in known:
            if key[0] == "replicas" and not self.topics.has(key):
                self._publish(key[1], key[2])
        return await self.topics.listen(known, timeout_s)

    async def waiting(self, app: str, deployment: str, router: Any, number: int) -> None:
        """A router tells how many requests wait there."""
        told = self.queued.setdefault((app, deployment), {})
        told[router] = (number, clock())
        if not number:
            del told[router]
        state = self._state(app, deployment)
        if state is not None and state.target is not None and state.target.replicas == 0:
            self._scale()

    def _queued(self, key: Key, now: float) -> int:
        told = self.queued.get(key)
        if not told:
            return 0
        for router, (_, when) in list(told.items()):
            if now - when > FORGET_S:
                del told[router]
        return sum(number for number, _ in told.values())

    async def has_in_hand(self, replica: str, requests: int, page: int) -> dict[int, int]:
        """A replica whose page of the board cannot be seen from here tells how many requests it has, and hears how many
        those have who do not write on that page, by slot.
        """
        self.tender.saw(replica, requests)
        return self.tender.loads(page)

    async def holds_models(self, app: str, deployment: str, replica: str, models: tuple[str, ...]) -> None:
        """A replica tells which multiplexed models it holds."""
        known = self.tender.tended.get(replica)
        if known is not None:
            known.models = tuple(models)
            self._publish(app, deployment)

    def _state(self, app: str, deployment: str) -> DeploymentState | None:
        found = self.apps.get(app)
        return found.states.get(deployment) if found is not None else None

    async def get_settings(self) -> dict[str, Any]:
        """The options that serve was started with."""
        return {**self.settings, "job": skate.get_runtime_context().get_job_id()}

    async def shutdown(self) -> None:
        """End all applications and replicas; answers when they are gone."""
        await self._begin()
        await self.delete([*self.apps, *self.declared.configs])

    # ------------------------------------------------------------------ having it done

    def decide(self) -> None:
        """Have done what is to be done now, tell of it, and look again when the time comes."""
        if not self.ready.is_set():
            return
        now, soonest = clock(), None
        for name, app in list(self.apps.items()):
            for state in list(app.states.values()):
                for command in state.decide(now):
                    self.tender.do(state, command)
                self.tender.shared.keep(name, state.name, state.versions())
                if state.target is None and not state.replicas:
                    self._forget(app, state)
                self._publish(name, state.name)
                at = state.next_look(now)
                soonest = at if soonest is None or (at is not None and at < soonest) else soonest
            if app.deleting and not app.states:
                del self.apps[name]
        if self.timer is not None:
            self.timer.cancel()
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(max(0.0, soonest - now), self.decide) if soonest is not None else None
        self.topics.notify()

    def _forget(self, app: App, state: DeploymentState) -> None:
        del app.states[state.name]
        for memory in (self.scalers, self.queued):
            memory.pop((state.app, state.name), None)
        needed = {code for each in self.apps.values() for entry in each.states.values() for code in entry.codes()}
        self.tender.codes = {name: code for name, code in self.tender.codes.items() if name in needed}

    def _scale_soon(self) -> None:
        if self.scaling is None and self.scalers:
            period = min(scaler.period() for scaler in self.scalers.values())
            self.scaling = asyncio.get_running_loop().call_later(period, self._scale_on)

    def _scale_on(self) -> None:
        self.scaling = None
        self._scale()
        self._scale_soon()

    def _scale(self) -> None:
        """Have deployments follow their requests."""
        now, changed = clock(), False
        for key, scaler in self.scalers.items():
            state = self._state(*key)
            if state is None or state.target is None or state.status is DeploymentStatus.DEPLOY_FAILED:
                continue
            ongoing = sum(self.tender.ongoing(entry.name) for entry in state.running())
            scaler.note(ongoing, self._queued(key, now), now)
            running = [_replica_id(state, entry.name) for entry in state.running()]
            wanted = scaler.wanted(len(running), state.target.replicas, now, running)
            changed = state.scale(wanted) or changed
        if changed:
            self.decide()

    # ------------------------------------------------------------------ telling of it

    def _publish(self, app: str, deployment: str) -> None:
        key = ("replicas", app, deployment)
        self.topics.set(key, telling.published(self._state(app, deployment), self.tender))

    def _publish_routes(self) -> None:
        self.topics.set(("routes",), telling.routes(self.apps))

    def _noted(self, state: DeploymentState, replica: str, kind: str, figures: dict[str, Any]) -> None:
        """A replica gave figures of its own."""
        if kind == "routing":
            self._publish(state.app, state.name)
            return
        scaler = self.scalers.get((state.app, state.name))
        if scaler is not None:
            scaler.note_figures(_replica_id(state, replica), figures, clock())


def _replica_id(state: DeploymentState, replica: str) -> context.ReplicaID:
    return context.ReplicaID(replica, context.DeploymentID(state.name, state.app))


async def _recorded(refs: list[Any]) -> None:
    """Wait until the vault has something. One that died in between gets it when it is filled again."""
    for ref in refs:
        with contextlib.suppress(exceptions.ActorUnavailableError):
            await ref
