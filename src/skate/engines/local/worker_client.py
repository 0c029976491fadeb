"""The engine inside a worker: every verb becomes a message to the hub. What waits for values is `worker_reads.py`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from skate.core import refs
from skate.core.engine import Context
from skate.core.environment import merge_environments, shown_environment
from skate.core.gpus import named, visible
from skate.core.ids import FOREIGN, worker_hex
from skate.core.nodes import NodeSpec
from skate.core.placement import Where, inherits
from skate.core.refs import ObjectRef, make_ref
from skate.core.serialization import pack
from skate.core.spec import ActorInfo, ActorOptions, CallOptions, GroupSpec, TaskOptions
from skate.engines.execution import full_name
from skate.engines.local import sites
from skate.engines.local.arena import Mapping
from skate.engines.local.link import BlockingLink
from skate.engines.local.mailbox import Running, running
from skate.engines.local.messages import (
    Call,
    Export,
    Hold,
    Next,
    Put,
    Release,
    Site,
    SpawnRequest,
    Submit,
    TaskSpec,
    Value,
    Welcome,
    decode_info,
    encode_any,
    encoder,
)
from skate.engines.local.worker_reads import WorkerReads

Inheriting = TypeVar("Inheriting", TaskOptions, ActorOptions)


class WorkerClient(WorkerReads):
    """The engine protocol over a link to the hub."""

    name = "local"
    address = "local"

    def __init__(self, link: BlockingLink, welcome: Welcome, open_arena: Callable[[], Mapping]) -> None:
        super().__init__(link, welcome, open_arena)
        self.folder = welcome.session_folder
        self.actor: ActorInfo | None = None
        self.reconstructed = False
        self.gpus: tuple[int, ...] = ()
        """Those that the actor holds."""
        self.inside: Where | None = None
        """Where what is started here goes, if that is the caller's own placement group."""
        self.visible_gpus = visible(os.environ)
        """By name, those that this process saw when it began."""
        self.exiting = False
        """Whether a call asked for the actor's end by exit_actor: it holds though the call caught what that raised."""
        self.target: Any = None
        """The function of the task that runs, or the actor's class."""
        if welcome.sites:
            sites.record(self, self._note_site)

    # ------------------------------------------------------------------- posting

    def _note_site(self, keys: list[int], text: str) -> None:
        with self.lock:
            self.link.out.append(Site(keys, text))

    def _parent(self) -> int:
        here = running.get()
        return here.task if here is not None else self.current.task

    def _post_task(self, spec: TaskSpec, options: TaskOptions) -> None:
        self._count_returns(spec)
        self.sent(spec.args)
        self.link.out.append(Submit(spec, self._inherit(options), self._parent()))
        self.link.flush()

    def _inherit(self, options: Inheriting) -> Inheriting:
        """What runs in an environment starts children in it too; their own fields go over it. And a placement group may
        take in what is started inside.
        """
        if self.inside is not None and inherits(options.where):
            selectors = options.where.selectors if options.where is not None else ()
            options = replace(options, where=replace(self.inside, selectors=selectors) if selectors else self.inside)
        ours = self.welcome.environment
        if not ours or options.environment == ours:
            return options
        return replace(options, environment=merge_environments(ours, options.environment))

    def _post_call(self, spec: TaskSpec, options: CallOptions) -> None:
        self._count_returns(spec)
        self.sent(spec.args)
        self.link.out.append(Call(spec, options, self._parent()))
        self.link.flush()

    def _count_returns(self, spec: TaskSpec) -> None:
        self._settle_often()
        if spec.returns:
            for key in range(spec.task, spec.task + max(1, spec.returns)):
                self.counts[key] = 1

    def _settle_often(self) -> None:
        """Keep the list of dropped references short in a call that never waits; `lock` is held."""
        if len(refs.released) > 64:
            holds, releases = self.changes()
            if holds:
                self.link.out.append(Hold(holds))
            if releases:
                self.link.out.append(Release(releases))

    def _export(self, function: bytes, blob: bytes, name: str) -> None:
        self.link.out.append(Export(function, blob, name))

    def _post_put(self, key: int, value: Value, inner: tuple[int, ...]) -> None:
        self._settle_often()
        self.counts[key] = 1
        self.sent(value)
        self.link.out.append(Put(key, value, inner))
        self.link.flush()

    def _spawn(self, spec: TaskSpec, info: ActorInfo) -> ActorInfo:
        info = replace(info, options=self._inherit(info.options))
        if not info.options.get_if_exists:
            return self._spawn_now(spec, info)
        # What was dropped is told before, or after: not in between, for the actor may be found whose handle it was.
        self.settle()
        with self.lock:
            self.finding += 1
        try:
            return self._spawn_now(spec, info)
        finally:
            with self.lock:
                self.finding -= 1

    def _spawn_now(self, spec: TaskSpec, info: ActorInfo) -> ActorInfo:
        data = self._ask("spawn", encoder.encode(SpawnRequest(spec, info)))
        self.sent(spec.args)
        made = decode_info(data)
        self.counts[made.actor] = self.counts.get(made.actor, 0) + 1
        return made

    def find(self, name: str, namespace: str) -> ActorInfo:
        """A named actor that lives."""
        return decode_info(self._ask("find", encode_any((name, namespace))))

    # ------------------------------------------------------------------- streams

    def next_item(self, stream: int) -> ObjectRef[Any]:
        """Name the next item of a stream."""
        with self.lock:
            key = self.ids.take()
            self.counts[key] = 1
            self.link.out.append(Next(stream, key))
        return make_ref(key)

    def is_end(self, item: ObjectRef[Any]) -> bool:
        """Whether a ready item lies past its stream's end."""
        return item._key in self.ended

    # -------------------------------------------------------------------- others

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Cancel the task that makes `ref`."""
        self.ask("cancel", ref._key, force, recursive)

    def kill(self, actor: int, no_restart: bool) -> None:
        """End an actor's process."""
        self.ask("kill", actor, no_restart)

    def reserve(self, spec: GroupSpec) -> int:
        """A new placement group."""
        with self.lock:
            key = self.ids.take()
        self._ask("reserve", encoder.encode((key, spec)))
        return key

    def unreserve(self, group: int) -> None:
        """Remove a placement group."""
        if group < FOREIGN:  # else it is another session's
            self.ask("unreserve", group)

    def await_group(self, group: int, value: Any) -> ObjectRef[Any]:
        """An object that becomes ready with a group."""
        with self.lock:
            key = self.ids.take()
        self._ask("await_group", encoder.encode((key, group if group < FOREIGN else 0, pack(value).to_bytes())))
        self.counts[key] = 1
        return make_ref(key)

    def find_group(self, name: str, namespace: str) -> int:
        """A named placement group."""
        key: int = self.ask("find_group", name, namespace)
        return key

    def group(self, group: int) -> dict[str, Any] | None:
        """A placement group's row."""
        row: dict[str, Any] | None = self.ask("group", group) if group < FOREIGN else None
        return row

    def state(self, kind: str) -> list[dict[str, Any]]:
        """Rows of the session's state."""
        rows: list[dict[str, Any]] = self.ask("state", kind)
        return rows

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """Total and free resources."""
        total, free = self.ask("resources")
        return total, free

    def context(self) -> Context:
        """Where the calling code runs."""
        from skate.core.resources import as_floats

        here = running.get() or self.current
        if isinstance(here, TaskSpec):
            here = Running(here.task, here.method, None, 0, self.gpus)
        options = here.options or TaskOptions()
        actor = self.actor
        holder = actor.options if actor is not None else options
        name = here.function
        function = full_name(self.target) if here.task else ""
        if actor is not None and here.task:
            name = f"{actor.options.class_name}.{here.function or '__init__'}"
            function = f"{function}.{here.function or '__init__'}"
        return Context(
            namespace=self.welcome.namespace,
            node=self.welcome.node,
            worker=worker_hex(self.welcome.client),
            task=here.task,
            task_name=options.name or name,
            function_name=function,
            attempt=here.attempt,
            actor=actor,
            reconstructed=self.reconstructed,
            resources=as_floats(holder.resources),
            gpus=named(here.gpus, self.visible_gpus),
            environment=shown_environment(merge_environments(self.welcome.job_environment, holder.environment)),
            driver=False,
            job=self.welcome.job,
            group=holder.where.group if holder.where is not None else 0,
            capture=holder.where is not None and holder.where.capture,
        )

    def is_cancelled(self) -> bool:
        """Whether the calling task was cancelled."""
        here = running.get() or self.current
        return here.task in self.cancelled

    def exit_actor(self) -> None:
        """End the calling actor for good."""
        if self.actor is None:
            raise TypeError("exit_actor can only be called inside an actor.")
        self.exiting = True
        raise ActorExit

    def add_node(self, spec: NodeSpec) -> str:
        """Only a driver can."""
        raise RuntimeError("Nodes are added by the driver, not by a task or an actor.")

    def remove_node(self, node: str) -> None:
        """Only a driver can."""
        raise RuntimeError("Nodes are removed by the driver, not by a task or an actor.")

    def close(self) -> None:
        """A worker's session is its driver's to end."""


class ActorExit(SystemExit):
    """Leaves an actor's method, and ends the actor."""
