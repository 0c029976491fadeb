"""The engine inside a worker: every verb becomes a message to the hub."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from skate import exceptions
from skate.core import refs
from skate.core.engine import Context, Ready
from skate.core.environment import merge_environments, shown_environment
from skate.core.generator import asyncio_ready
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
from skate.engines.local.blocks import Blocks, LostValue
from skate.engines.local.link import BlockingLink
from skate.engines.local.mailbox import Running, running
from skate.engines.local.messages import (
    Answer,
    Call,
    Export,
    Get,
    Hold,
    Next,
    Outcome,
    Put,
    Release,
    Site,
    SpawnRequest,
    Submit,
    TaskSpec,
    Value,
    Values,
    Welcome,
    decode_info,
    encode_any,
    encoder,
)
from skate.engines.local.outcomes import raise_outcome
from skate.engines.local.rows import END, FAILED, PENDING

if TYPE_CHECKING:
    import asyncio


Inheriting = TypeVar("Inheriting", TaskOptions, ActorOptions)


class WorkerClient(Blocks):
    """The engine protocol over a link to the hub."""

    name = "local"
    address = "local"

    def __init__(self, link: BlockingLink, welcome: Welcome, open_arena: Callable[[], Mapping]) -> None:
        super().__init__(link, welcome, open_arena)
        self.folder = welcome.session_folder
        self.ended: set[int] = set()
        """Item references past the end of their stream."""
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
        self._helper: threading.Thread | None = None
        self.helping = threading.Lock()
        """Held to begin or end that thread."""
        self.due: deque[Ready] = deque()
        """Callbacks that it is to make."""
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

    # ------------------------------------------------------------------- objects

    def _outcomes(self, keys: list[int], count: int, timeout: float | None, values: bool) -> list[Outcome]:
        request = next(self.requests)
        blocks = threading.get_ident() == self.main
        if self.fresh:
            self.settle()
        with self.lock:
            self.link.out.append(Get(request, keys, count, timeout, values, blocks))
        replies = self.replies
        try:
            self.until(lambda: request in replies)
        except BaseException:
            self.abandoned.add(request)
            raise
        reply = replies.pop(request)
        if isinstance(reply, Answer):
            raise_outcome(reply.data)
        for key, outcome in zip(keys, reply.outcomes, strict=True):
            if outcome.state == END:
                self.ended.add(key)
        return reply.outcomes

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values in order."""
        keys = [ref._key for ref in refs]
        values: list[Any] = []
        while len(values) < len(keys):
            rest = keys[len(values) :] if values else keys
            outcomes = self._outcomes(rest, len(rest), timeout, True)
            try:
                self._load_all(outcomes, timeout, values)
            except LostValue as lost:
                self.ask("lose", lost.key)
            finally:
                self.unseen(outcomes)
        return values

    def _load_all(self, outcomes: list[Outcome], timeout: float | None, values: list[Any]) -> None:
        """Add the values that an answer brings to `values`."""
        waiting = False
        for outcome in outcomes:
            if outcome.state == FAILED:
                raise_outcome(outcome.value)
            waiting = waiting or outcome.state == PENDING
        if waiting:
            raise exceptions.GetTimeoutError(f"Get timed out: some objects were not ready after {timeout} seconds.")
        for number, outcome in enumerate(outcomes):
            if number and outcome.value == b"":
                return  # too many for one answer: these are asked for again
            values.append(self.load(outcome.value))

    def wait(
        self, refs: Sequence[ObjectRef[Any]], count: int, timeout: float | None, fetch: bool = True
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """At most `count` ready ones, and the rest."""
        outcomes = self._outcomes([ref._key for ref in refs], count, timeout, False)
        ready: list[ObjectRef[Any]] = []
        rest: list[ObjectRef[Any]] = []
        for ref, outcome in zip(refs, outcomes, strict=True):
            (ready if outcome.state != PENDING and len(ready) < count else rest).append(ref)
        return ready, rest

    def on_ready(self, ref: ObjectRef[Any], callback: Ready) -> None:
        """Call back when `ref` is ready, from a thread that may ask for its value."""
        self._subscribe(ref, False, lambda _: self.due.append(callback))
        with self.helping:
            if self._helper is None:
                self._helper = threading.Thread(target=self._keep_reading, name="skate-reader", daemon=True)
                self._helper.start()

    def _subscribe(self, ref: ObjectRef[Any], values: bool, callback: Callable[[Values], None]) -> None:
        request = next(self.requests)
        key = ref._key

        def answered(message: Values, keep: Any = ref) -> None:
            if message.outcomes[0].state == END:
                self.ended.add(key)
            callback(message)

        self.callbacks[request] = answered
        if self.fresh:
            self.settle()
        with self.lock:
            self.link.out.append(Get(request, [key], 1, None, values, False))
            self.link.flush()

    def _keep_reading(self) -> None:
        """Read as long as somebody waits for a callback and nobody else reads; make the callbacks.

        They are not made by whoever reads: they may ask for values, which he would have to read.
        """
        due = self.due
        while True:
            self.turns.until(lambda: due or not self.callbacks)
            while due:
                due.popleft()()
            with self.helping:
                if not due and not self.callbacks:
                    self._helper = None
                    return

    def asyncio_future(self, ref: ObjectRef[Any]) -> asyncio.Future[Any]:
        """A future of the running loop, which reads the link itself while it waits."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(outcome: Outcome) -> None:
            try:
                if future.done():
                    return
                if outcome.state == FAILED:
                    raise_outcome(outcome.value)
                future.set_result(self.load(outcome.value))
            except LostValue as lost:
                self.ask("lose", lost.key)
                self._subscribe(ref, True, answered)
            except BaseException as error:  # noqa: BLE001  it belongs to whoever awaits
                future.set_exception(StopIterationError(error) if isinstance(error, StopIteration) else error)
            finally:
                self.unseen([outcome])

        def answered(message: Values) -> None:
            if loop.is_closed():
                self.unseen(message.outcomes)
            else:
                loop.call_soon_threadsafe(settle, message.outcomes[0])

        if self.on_inbox is None:  # an actor's own loop reads already
            loop.add_reader(self.link.read_fd, self.readable)
        self._subscribe(ref, True, answered)
        return future

    def asyncio_ready(self, ref: ObjectRef[Any]) -> Any:
        """A future of the running loop; an actor's own loop reads for it, and needs no other thread."""
        import asyncio

        if self.on_inbox is None:
            return asyncio_ready(self, ref)
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        def answered(_: Values) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        self._subscribe(ref, False, answered)
        return woken

    def readable(self) -> None:
        """The link has something to read: read once, unless another thread does."""
        if self.turns.lead.acquire(False):
            try:
                if self._has_mail():  # or it was read meanwhile, and reading would wait
                    self._read(None)
                    self.turns.notify()
            finally:
                self.turns.lead.release()
                self.turns.pass_on()
        else:
            time.sleep(0)  # let the thread that reads have the interpreter

    def _has_mail(self) -> bool:
        readable = select.poll()
        readable.register(self.link.read_fd, select.POLLIN)
        return bool(readable.poll(0))

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


class StopIterationError(RuntimeError):
    """A StopIteration, which a future cannot hold."""
