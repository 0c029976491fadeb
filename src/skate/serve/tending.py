"""Tending replicas: starting the actors that `state` wants, looking after them, ending them."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import skate
from skate import exceptions
from skate.serve import board, context
from skate.serve.config import DeploymentConfig
from skate.serve.http_loop import FastLoop
from skate.serve.replica import Replica
from skate.serve.state import Command, DeploymentState, Drain, Kill, Reconfigure, Start, Target

clock = time.monotonic
NODE_AGAIN_S = 1.0
"""Seconds before a replica that found no node with room for one more looks again."""


class Tended:
    """What is known of a replica's actor."""

    def __init__(self, actor: Any, slot: int, group: Any = None) -> None:
        self.actor = actor
        self.slot = slot
        self.group = group
        self.node = ""
        self.where: dict[str, Any] = {}
        """Its process, as `context.whereabouts` has it; empty: it is not there yet."""
        self.info: dict[str, Any] = {}
        """What the replica told when it was ready."""
        self.models: tuple[str, ...] = ()
        """Multiplexed models that it holds."""

    def came(self, where: dict[str, Any]) -> None:
        """Its process is there."""
        self.where, self.node = where, where["node_id"]


class Tender:
    """Does what `DeploymentState.decide` says, and reports what came of it.

    Args:
        changed: called after every report.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.changed = changed
        self.tended: dict[str, Tended] = {}
        """By the replicas' own names."""
        self.codes: dict[str, Any] = {}
        """References to pickled code, by the names that targets have for it."""
        self.board: board.Board | None = None
        self._next_slot = 1
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
        full = context.ReplicaID(name, state.name, state.app).to_full_id_str()
        slot = self._slot()
        group, node = None, ""
        assert self.board is not None
        try:
            options = _actor_options(target.config, full)
            if target.config.max_replicas_per_node is not None:
                node = await self._node_with_room(state, name, target.config.max_replicas_per_node)
                if not node:
                    return  # it is not wanted any more
                options["scheduling_strategy"] = skate.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                    node, soft=False
                )
            if target.config.placement_group_bundles is not None:
                group = _group(target.config, options)
            actor = (
                skate.remote(Replica)
                .options(**options)
                .remote(name, state.name, state.app, slot, self.board.place, command.rank, target.replicas, FastLoop())
            )
        except Exception as error:  # noqa: BLE001  whatever is wrong with the options, it is the deployment's failure
            _remove(group)
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

    def _slot(self) -> int:
        """A slot of the board that nobody uses, its figures put back."""
        taken = {known.slot for known in self.tended.values()}
        while self._next_slot in taken:
            self._next_slot = self._next_slot % (board.SLOTS - 1) + 1
        slot, self._next_slot = self._next_slot, self._next_slot % (board.SLOTS - 1) + 1
        if self.board is not None:
            word = board.word_of(slot)
            self.board.words[word + board.ONGOING] = self.board.words[word + board.BEGUN] = 0
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
        self.task(self.check(state, name))

    async def find_again(self, app: Any, name: str) -> tuple[DeploymentState, str] | None:
        """Get to know a replica that a controller before this one started; None when nothing is to be had of it."""
        _, deployment, replica = context.parts_of(name)
        try:
            actor = skate.get_actor(name, namespace=context.NAMESPACE)
        except ValueError:
            return None
        state: DeploymentState | None = app.states.get(deployment) if app is not None else None
        if state is None:
            skate.kill(actor)
            return None
        if replica in self.tended:
            return state, replica
        try:
            target, rank, slot, where, info = await actor.who.remote()
        except exceptions.RayError:
            return None
        if target is None:
            skate.kill(actor)  # it was never told what it is
            return None
        known = Tended(actor, slot)
        known.came(where)
        known.info = info or {}
        state.adopt(replica, target, rank, info is not None, clock())
        self.know(state, replica, known)
        if info is None:
            self.task(self._see_made(state, replica, actor))
        else:
            self.task(self.check(state, replica))
        return state, replica

    async def _see_made(self, state: DeploymentState, name: str, actor: Any) -> None:
        """Wait for a constructor that another controller had run."""
        try:
            self.tended[name].info = await actor.until_made.remote()
        except exceptions.RayError as error:
            self._report(state.failed, name, told(error), clock())
            skate.kill(actor)
            return
        self._report(state.started, name, clock())
        await self.check(state, name)

    # ------------------------------------------------------------------ while it runs

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
        _remove(known.group)
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


def _group(config: DeploymentConfig, options: dict[str, Any]) -> Any:
    """A placement group for a replica, whose options are made to name it."""
    group = skate.util.placement_group(
        config.placement_group_bundles or [], strategy=config.placement_group_strategy or "PACK", lifetime="detached"
    )
    options["scheduling_strategy"] = skate.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    return group


def _remove(group: Any) -> None:
    if group is not None:
        skate.util.remove_placement_group(group)


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
