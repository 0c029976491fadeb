"""Tending replicas: starting the actors that `state` wants, looking after them, ending them."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import skate
from skate import exceptions
from skate.serve import board, context, placing
from skate.serve.config import DeploymentConfig
from skate.serve.deployment_actors import SharedActors
from skate.serve.http_loop import FastLoop
from skate.serve.replica import Replica
from skate.serve.state import DeploymentState
from skate.serve.target import Command, Drain, Introduction, Kill, Reconfigure, Start, Target

clock = time.monotonic
NODE_AGAIN_S = 1.0
"""Seconds before a replica that found no node with room for one more looks again."""


class Tended:
    """What is known of a replica's actor."""

    def __init__(self, actor: Any, slot: int, group: Any = None) -> None:
        self.actor = actor
        self.slot = slot
        self.group = group
        self.group_name = ""
        """What it is called if there is one, of replicas that were found again."""
        self.node = ""
        self.where: dict[str, Any] = {}
        """Its process, as `context.whereabouts` has it; empty: it is not there yet."""
        self.info: dict[str, Any] = {}
        """What the replica told when it was ready."""
        self.models: tuple[str, ...] = ()
        """Multiplexed models that it holds."""
        self.stats: dict[str, Any] = {}
        """What its ``record_routing_stats`` gave last."""

    def came(self, where: dict[str, Any]) -> None:
        """Its process is there."""
        self.where, self.node = where, where["node_id"]


class Tender:
    """Does what `DeploymentState.decide` says, and reports what came of it.

    Args:
        changed: called after every report.
        noted: called with figures that a replica gave, of the kind "routing" or "autoscaling".
    """

    def __init__(
        self, changed: Callable[[], None], noted: Callable[[DeploymentState, str, str, dict[str, Any]], None]
    ) -> None:
        self.changed = changed
        self.noted = noted
        self.tended: dict[str, Tended] = {}
        """By the replicas' own names."""
        self.codes: dict[str, Any] = {}
        """References to pickled code, by the names that targets have for it."""
        self.board: board.Board | None = None
        self.shared = SharedActors()
        self._tasks: set[asyncio.Task[Any]] = set()

    def task(self, work: Any) -> None:
        """Run a coroutine."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def do(self, state: DeploymentState, command: Command) -> None:
        """Have a command done."""
        if isinstance(command, Start):
            self.task(self._start(state, command))
            return
        known = self.tended.get(command.replica)
        if known is None:
            asyncio.get_running_loop().call_soon(self._report, state.died, command.replica, "it was not there", clock())
        elif isinstance(command, Reconfigure):
            self.task(self._reconfigure(state, command, known.actor))
        elif isinstance(command, Drain):
            self.task(self._drain(state, command.replica, known.actor))
        elif isinstance(command, Kill):
            skate.kill(known.actor)

    def _report(self, tell: Callable[..., Any], *what: Any) -> None:
        tell(*what)
        self.changed()

    # ------------------------------------------------------------------ beginning

    async def _start(self, state: DeploymentState, command: Start) -> None:
        target, name = command.target, command.replica
        full = context.ReplicaID(name, context.DeploymentID(state.name, state.app)).to_full_id_str()
        slot = self._slot()
        group, node = None, ""
        assert self.board is not None
        try:
            await self.shared.ensure(state.app, state.name, target)
            options = _actor_options(target.config, full)
            if target.config.max_replicas_per_node is not None:
                node = await self._node_with_room(state, name, target.config.max_replicas_per_node)
                if not node:
                    return  # it is not wanted any more
                options["scheduling_strategy"] = skate.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                    node, soft=False
                )
            group = placing.placed(target.config, options, full, command.gang)
            actor = (
                skate.remote(Replica)
                .options(**options)
                .remote(
                    name, state.name, state.app, slot, self.board.place, command.rank, target.replicas, FastLoop(),
                    command.gang,
                )
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  whatever is wrong with the options, it is the deployment's failure
            self._remove(group)
            self._report(state.failed, name, told(error), clock())
            return
        known = Tended(actor, slot, group)
        known.node = node  # so that the next to look for a node counts this one
        self.know(state, name, known)
        entry = state.replicas.get(name)
        if entry is None or entry.phase.value == "STOPPING":
            skate.kill(actor)  # it was told to go before it was there
            return
        await self._see_up(state, name, target)

    def _remove(self, group: Any) -> None:
        """Give back a placement group, when the last that is in it has gone."""
        if group is not None and all(known.group != group for known in self.tended.values()):
            skate.util.remove_placement_group(group)

    def remove_groups(self) -> None:
        """Give back the placement groups of replicas that were not found again."""
        placing.remove_others({known.group_name for known in self.tended.values()})

    def _slot(self) -> int:
        """A slot of the board that nobody uses, its figures put back."""
        assert self.board is not None
        taken = {known.slot for known in self.tended.values()}
        words = self.board.words
        slot = max(1, int(words[board.NEXT]))
        while slot in taken:
            slot = slot % (board.SLOTS - 1) + 1
        # Not the first that is free: callers may still ask what the replica that had it before had begun. It is written
        # to the board, for a controller that is restarted.
        words[board.NEXT] = slot % (board.SLOTS - 1) + 1
        word = board.word_of(slot)
        words[word + board.ONGOING] = words[word + board.BEGUN] = 0
        return slot

    async def _node_with_room(self, state: DeploymentState, name: str, most: int) -> str:
        """A node with fewer than `most` replicas of the deployment; empty: the replica is not wanted any more."""
        while True:
            entry = state.replicas.get(name)
            if entry is None or entry.phase.value == "STOPPING":
                state.replicas.pop(name, None)
                self.changed()
                return ""
            here = Counter(self.tended[each].node for each in state.replicas if each in self.tended)
            nodes = [node["NodeID"] for node in skate.nodes() if node["Alive"]]
            best = min(nodes, key=lambda node: here[node], default="")
            if best and here[best] < most:
                return best
            await asyncio.sleep(NODE_AGAIN_S)

    def know(self, state: DeploymentState, name: str, known: Tended) -> None:
        """Look after a replica from now on."""
        self.tended[name] = known
        self.task(self._see_end(state, name, known))

    async def _see_up(self, state: DeploymentState, name: str, target: Target) -> None:
        known = self.tended[name]
        actor = known.actor
        placed = actor.placed.remote()
        started = actor.start.remote(self.codes[target.code], target)
        try:
            known.came(await placed)
            state.placed(name)
            known.info = await started
        except exceptions.RayError as error:
            self._report(state.failed, name, told(error), clock())
            skate.kill(actor)
            return
        self._report(state.started, name, clock())
        self._look_after(state, name)

    def find_shared(self, state: DeploymentState) -> None:
        """Get to know the actors that replicas share; the next replica tells of those that fail."""
        for target in state.targets():
            self.task(self._find_shared(state, target))

    async def _find_shared(self, state: DeploymentState, target: Target) -> None:
        with contextlib.suppress(exceptions.RayError, ValueError, TypeError, ImportError):
            await self.shared.ensure(state.app, state.name, target)

    async def find_again(self, app: Any, name: str) -> None:
        """Get to know a replica that a controller before this one started, where it is still of use."""
        _, deployment, replica = context.parts_of(name)
        try:
            actor = skate.get_actor(name, namespace=context.NAMESPACE)
        except ValueError:
            return
        state: DeploymentState | None = app.states.get(deployment) if app is not None else None
        if state is None:
            skate.kill(actor)
            return
        if replica in self.tended:
            return
        try:
            found: Introduction = await actor.who.remote()
        except exceptions.RayError:
            return
        if found.target is None:
            skate.kill(actor)  # it was never told what it is
            return
        known = Tended(actor, found.slot, placing.found(found.target.config, name, found.gang))
        known.group_name = placing.group_name(name, found.gang)
        known.came(found.where)
        known.info = found.info or {}
        state.adopt(replica, found, clock())
        self.know(state, replica, known)
        if found.leaving:
            return
        if found.info is None:
            self.task(self._see_made(state, replica, actor))
        else:
            self._look_after(state, replica)

    async def _see_made(self, state: DeploymentState, name: str, actor: Any) -> None:
        """Wait for a constructor that another controller had run."""
        try:
            self.tended[name].info = await actor.until_made.remote()
        except exceptions.RayError as error:
            self._report(state.failed, name, told(error), clock())
            skate.kill(actor)
            return
        self._report(state.started, name, clock())
        self._look_after(state, name)

    # ------------------------------------------------------------------ while it runs

    def _look_after(self, state: DeploymentState, name: str) -> None:
        self.task(self.check(state, name))
        self.task(self._ask_figures(state, name, "routing"))
        self.task(self._ask_figures(state, name, "autoscaling"))

    async def _ask_figures(self, state: DeploymentState, name: str, kind: str) -> None:
        """Ask a replica for figures of its own, for as long as somebody goes by them."""
        while (entry := state.replicas.get(name)) is not None and name in self.tended:
            period, timeout = _period(entry.target.config, kind)
            if not period:
                return
            known = self.tended[name]
            try:
                found = await asyncio.wait_for(_awaited(known.actor.figures.remote(kind)), timeout)
            except exceptions.RayActorError:
                return  # its end is seen elsewhere
            except (exceptions.RayError, TimeoutError) as error:
                print(f"serve: replica {name} of {state.name} gave no figures for {kind}: {short(error)}")
                found = {}
            if found is None:
                return  # it has no such method
            if found and (kind != "routing" or found != known.stats):
                if kind == "routing":
                    known.stats = found
                self.noted(state, name, kind, found)
            await asyncio.sleep(period)

    async def check(self, state: DeploymentState, name: str) -> None:
        """Look after a replica's health for as long as it is there."""
        while (entry := state.replicas.get(name)) is not None and name in self.tended:
            config = entry.target.config
            await asyncio.sleep(config.health_check_period_s)
            if name not in self.tended:
                return
            problem = ""
            try:
                await asyncio.wait_for(_awaited(self.tended[name].actor.check.remote()), config.health_check_timeout_s)
            except TimeoutError:
                problem = f"check_health did not answer within {config.health_check_timeout_s} s"
            except exceptions.RayActorError:
                return  # its end is seen elsewhere
            except exceptions.RayError as error:
                problem = told(error)
            if state.checked(name, problem, clock()):
                self.changed()
                return

    async def _reconfigure(self, state: DeploymentState, command: Reconfigure, actor: Any) -> None:
        try:
            await actor.configure.remote(command.target)
        except exceptions.RayError as error:
            self._report(state.failed, command.replica, told(error), clock())
            skate.kill(actor)
        else:
            self._report(state.reconfigured, command.replica, command.target.light)

    # ------------------------------------------------------------------ ending

    async def _see_end(self, state: DeploymentState, name: str, known: Tended) -> None:
        """Wait for a replica's end, however it comes."""
        why = "it ended"
        while True:
            try:
                await known.actor.lives.remote()
            except exceptions.ActorUnavailableError:
                await asyncio.sleep(0.1)
                continue
            except exceptions.RayError as error:
                why = short(error)
            break
        self.tended.pop(name, None)
        self._remove(known.group)
        self._report(state.died, name, why, clock())

    async def _drain(self, state: DeploymentState, name: str, actor: Any) -> None:
        entry = state.replicas.get(name)
        config = entry.target.config if entry is not None else DeploymentConfig()
        # Callers on this machine know by the board what a replica that is gone had not begun; others must hear in time.
        wait = config.graceful_shutdown_wait_loop_s if _several_machines() else 0.0
        try:
            await actor.drain.remote(wait, config.graceful_shutdown_timeout_s)
        except exceptions.RayActorError:
            return
        except exceptions.RayError as error:
            print(f"serve: replica {name} of {state.name} did not end well: {told(error)}")
        skate.kill(actor)

    def saw(self, name: str, requests: int) -> None:
        """A replica on another machine has so many requests in hand. On the board those read it who are here."""
        known = self.tended.get(name)
        if known is not None and self.board is not None and known.info.get("board") != self.board.identity:
            self.board.words[board.word_of(known.slot)] = requests

    def loads(self, page: int) -> dict[int, int]:
        """Requests in hand by slot, of replicas that have some and write on another page of the board."""
        if self.board is None:
            return {}
        words = self.board.words
        others = (known.slot for known in self.tended.values() if known.info.get("board") != page)
        return {slot: count for slot in others if (count := int(words[board.word_of(slot)]))}

    def where(self, name: str) -> dict[str, Any]:
        """Where a replica's process is; empty: nowhere yet."""
        known = self.tended.get(name)
        return known.where if known is not None else {}

    def ongoing(self, name: str) -> int:
        """Requests that a replica has in hand, as far as can be seen from here."""
        known = self.tended.get(name)
        if known is None or self.board is None:
            return 0
        return int(self.board.words[board.word_of(known.slot)])


def _several_machines() -> bool:
    return len({node["NodeManagerHostname"] for node in skate.nodes() if node["Alive"]}) > 1


def _period(config: DeploymentConfig, kind: str) -> tuple[float, float]:
    """Seconds between two calls for figures, 0 for none, and seconds that one may take."""
    routing, scaling = config.request_router_config, config.autoscaling_config
    if kind == "routing":
        if routing is None:
            return 0.0, 0.0
        return routing.request_routing_stats_period_s, routing.request_routing_stats_timeout_s
    if scaling is None or scaling.policy.is_default_policy_function():
        return 0.0, 0.0
    return scaling.metrics_interval_s, config.health_check_timeout_s


async def _awaited(ref: Any) -> Any:
    return await ref


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


def short(error: BaseException) -> str:
    """The first line of an error."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def told(error: BaseException) -> str:
    """An error as the user reads it: the trace of what his code raised."""
    if isinstance(error, exceptions.RayTaskError):
        return str(error.traceback_str).strip()
    if isinstance(error, exceptions.RayError):
        return str(error)
    return "".join(traceback.format_exception(error)).strip()
