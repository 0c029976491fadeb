"""A caller's side of a deployment: which replica gets a request, what waits, what is tried again.

Each process has one `Router` for a deployment that it has handles of. It hears from the controller by a call that stays
open until something changes. It picks the less busy of two replicas chosen at random; when all have as many requests as
they may, requests wait here, and over ``max_queued_requests`` they are turned away.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import skate
from skate import exceptions
from skate.serve import board, context
from skate.serve.exceptions import BackPressureError, DeploymentUnavailableError
from skate.serve.holders import Holders
from skate.serve.replica import Refused

if TYPE_CHECKING:
    from skate.serve.request import Request

LISTEN_S = 30.0
"""Seconds after which the controller answers though nothing has changed."""
TICK, LONGEST_TICK = 0.001, 0.004
"""Seconds between two looks at whether a request that waits can go."""
REAP_EVERY = 128
REPORT_S, REPORT_AT_ZERO_S = 1.0, 0.1
"""Seconds between reports of what waits here, at most; and while there are no replicas."""
RETRY_S = 0.2
"""Seconds before the controller is asked again when it did not answer."""

clock = time.monotonic
_routers: dict[tuple[str, str], Router] = {}
_made = threading.Lock()
_numbers = count(random.getrandbits(30) << 33 | 1)
_session = ""


def next_number() -> int:
    """A number that no other request of this machine has, with luck."""
    return next(_numbers)


class ReplicaEntry(NamedTuple):
    """What the controller tells of a replica."""

    name: str
    actor: Any
    slot: int
    max_ongoing: int
    models: tuple[str, ...] = ()
    """Multiplexed models that it holds."""
    info: dict[str, Any] = {}  # noqa: RUF012  never changed
    """What the replica told of itself when it was ready."""


class Published(NamedTuple):
    """What the controller tells of a deployment."""

    replicas: tuple[ReplicaEntry, ...]
    max_queued: int
    place: board.Place | None
    state: str
    """Empty; or why no request can be answered."""
    report_every: float = 0.0
    """Seconds between reports of what waits here, where the deployment scales by it; else 0."""


class Target:
    """A replica as a router knows it."""

    __slots__ = (
        "alone",
        "board",
        "call",
        "flying",
        "full_until",
        "max_ongoing",
        "models",
        "name",
        "stream",
        "word",
        "words",
    )

    def __init__(self, entry: ReplicaEntry, page: board.Board) -> None:
        self.name = entry.name
        self.call = entry.actor.call
        self.stream = entry.actor.stream
        self.max_ongoing = entry.max_ongoing
        self.models = frozenset(entry.models)
        self.word = board.word_of(entry.slot)
        self.words = page.words
        self.alone = entry.info.get("board") != page.identity
        """Whether what the replica has begun cannot be seen from here."""
        self.flying: dict[int, Any] = {}
        """References of this caller's requests, by number, that are not known to have ended."""
        self.full_until = 0.0

    def load(self) -> int:
        """Requests that it has in hand, as far as can be seen from here."""
        seen, own = self.words[self.word], len(self.flying)
        return seen if seen > own else own


Told = dict[tuple[str, ...], tuple[int, Any]]
"""What the controller tells: by topic, its version and its value."""


def router_of(app: str, deployment: str, told: Told | None = None) -> Router:
    """This process's router for a deployment, which may be told at once what there is to know."""
    forget_old_session()
    key = (app, deployment)
    found = _routers.get(key)
    if found is None:
        with _made:
            found = _routers.get(key)
            if found is None:
                return _routers.setdefault(key, Router(app, deployment, told))
    if told is not None:
        found.hear(told)
    return found


def forget_old_session() -> None:
    """Routers of a session that has ended are of no use in the next."""
    global _session
    if context.replica is not None:
        return
    now = skate.get_runtime_context().get_worker_id() if skate.is_initialized() else ""
    if now != _session:
        _session = now
        forget_all()


def forget_all() -> None:
    """Drop all routers."""
    with _made:
        for router in _routers.values():
            router.close()
        _routers.clear()
        board.forget()


class Router:
    """Sends the requests of this process to the replicas of one deployment."""

    def __init__(self, app: str, deployment: str, told: Told | None = None) -> None:
        self.app = app
        self.deployment = deployment
        self.name = random.getrandbits(62)
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.holders = Holders()
        self.targets: list[Target] = []
        self.known: dict[str, Target] = {}
        self.queue: deque[Request] = deque()
        self.max_queued = -1
        self.state = ""
        self.version = -1
        self.report_every = 0.0
        self.reported = 0.0
        self.closed = False
        self.sent = 0
        self._listening = False
        self._pumping = False
        self._task: Any = None
        if told is not None:
            self.hear(told)
        self.listen()

    # ------------------------------------------------------------------ hearing from the controller

    def listen(self) -> None:
        """Have the controller tell of changes, on the replica's loop or else in a thread of its own."""
        if self._listening or self.closed:
            return
        self._listening = True
        loop = context.loop
        if loop is not None:
            loop.call_soon_threadsafe(self._listen_on_loop)
        else:
            self._ask()

    def _listen_on_loop(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        while not self.closed:
            try:
                asked = self.version
                told = await context.controller().listen.remote({self._key(): asked}, LISTEN_S)
            except (exceptions.RayError, RuntimeError):
                await asyncio.sleep(RETRY_S)
                continue
            self.hear(told, asked)

    def _key(self) -> tuple[str, str, str]:
        return ("replicas", self.app, self.deployment)

    def _ask(self) -> None:
        """Call the controller; its answer comes by a callback, which calls again."""
        if self.closed:
            return
        if not skate.is_initialized():  # the session has ended, and to ask for an actor would begin another
            forget_all()
            return
        asked = self.version
        try:
            answer = context.controller().listen.remote({self._key(): asked}, LISTEN_S).future()
        except (exceptions.RayError, RuntimeError):
            self._ask_later()
            return
        answer.add_done_callback(partial(self._answered, asked))

    def _ask_later(self) -> None:
        timer = threading.Timer(RETRY_S, self._ask)
        timer.daemon = True
        timer.start()

    def _answered(self, asked: int, answer: Any) -> None:
        if self.closed:
            return
        if answer.cancelled() or answer.exception() is not None:
            self._ask_later()
            return
        self.hear(answer.result(), asked)
        self._ask()

    def hear(self, told: Told, asked: int | None = None) -> None:
        """Take in what the controller told; `asked`: the version that was known here when it was asked."""
        news = told.get(self._key())
        if news is None:
            return
        version, published = news
        with self.lock:
            if version == self.version:
                return
            if asked is not None and asked != self.version and version < self.version:
                return  # something newer has come since
            self.version = version
            page = board.private() if published.place is None else board.attach(published.place, context.session_folder)
            known = {}
            for entry in published.replicas:
                target = self.known.get(entry.name) or Target(entry, page)
                target.max_ongoing = entry.max_ongoing
                target.models = frozenset(entry.models)
                known[entry.name] = target
            self.known = known
            self.targets = list(known.values())
            self.max_queued = published.max_queued
            self.state = published.state
            self.report_every = published.report_every
            self._advance()
            self.changed.notify_all()

    # ------------------------------------------------------------------ sending

    def submit(self, request: Request) -> None:
        """Send a request, or have it wait."""
        with self.lock:
            if not self.queue and request.is_ready():
                target = self._choose_for(request)
                if target is not None:
                    self._send(request, target)
                    return
            if 0 <= self.max_queued <= len(self.queue):
                request.fail(BackPressureError(len(self.queue), self.max_queued))
                return
            self.queue.append(request)
            self._advance()
            self._pump_soon()

    def _choose_for(self, request: Request) -> Target | None:
        """Where a request goes; None: it waits."""
        model = request.meta[3]
        if model:
            return self.holders.choose(model, self.targets, self._has_room, request.made)
        return self._choose()

    def _choose(self) -> Target | None:
        """The less busy of two; None when all are full."""
        targets = self.targets
        many = len(targets)
        if many == 1:
            target = targets[0]
            return target if self._has_room(target) else None
        if not many:
            return None
        first = int(random.random() * many)
        second = int(random.random() * (many - 1))
        one, other = targets[first], targets[second + (second >= first)]
        best = one if one.load() <= other.load() else other
        if self._has_room(best):
            return best
        with_room = [target for target in targets if self._has_room(target)]
        return min(with_room, key=Target.load, default=None)

    def _has_room(self, target: Target) -> bool:
        if len(target.flying) >= target.max_ongoing:
            self._reap(target)
        if target.load() >= target.max_ongoing:
            return False
        return not target.full_until or clock() >= target.full_until

    def _reap(self, target: Target) -> None:
        """Notice requests that have ended though nobody asked for their answers yet."""
        refs = list(target.flying.items())
        if not refs:
            return
        unique = list({ref: number for number, ref in refs})
        ready, _ = skate.wait(unique, num_returns=len(unique), timeout=0)
        done = set(ready)
        for number, ref in refs:
            if ref in done:
                target.flying.pop(number, None)  # its caller may have been quicker

    def _send(self, request: Request, target: Target) -> None:
        request.sent_to(target)
        self.sent += 1
        if self.sent % REAP_EVERY == 0:
            for each in self.targets:
                if len(each.flying) > REAP_EVERY:
                    self._reap(each)

    def ended(self, request: Request) -> None:
        """A request has its answer."""
        target = request.target
        if target is not None:
            target.flying.pop(request.number, None)
        if self.queue:
            with self.lock:
                self._advance()

    def again(self, request: Request, ref: Any, refused: Refused) -> None:
        """A replica refused the request whose answer was to be `ref`: it is the first to be sent anew."""
        with self.lock:
            target = request.target
            if target is None or request.ref is not ref:
                return  # somebody else who takes its answer has seen to it
            target.flying.pop(request.number, None)
            if refused.why == "full":
                target.full_until = clock() + TICK
            elif refused.why == "leaving":
                self._drop(target)
            request.take_back()
            self.queue.appendleft(request)
            self._advance()
            self._pump_soon()

    def lost(self, request: Request, ref: Any) -> bool:
        """The replica that was to give `ref` is gone; True when it had not begun the request, which is sent anew."""
        with self.lock:
            target = request.target
            if target is None or request.ref is not ref:
                return True
            target.flying.pop(request.number, None)
            self._drop(target)
            if target.alone or board.had_begun(target.words, target.word, request.number, request.begun_before):
                return False
            request.take_back()
            self.queue.appendleft(request)
            self._advance()
            self._pump_soon()
        return True

    def _drop(self, target: Target) -> None:
        self.targets = [each for each in self.targets if each is not target]

    # ------------------------------------------------------------------ what waits

    def _advance(self) -> None:
        """Send what can be sent now; `lock` is held."""
        queue = self.queue
        if self.state and queue:
            for request in queue:
                request.fail(DeploymentUnavailableError(self.deployment, self.app, self.state))
            queue.clear()
        blocked = 0
        while len(queue) > blocked:
            request = queue[blocked]
            if request.is_over():
                del queue[blocked]
                continue
            if not request.is_ready():
                blocked += 1  # it waits for another request; those behind it need not
                continue
            target = self._choose_for(request)
            if target is None and request.meta[3]:
                blocked += 1  # it waits for those that hold its model
                continue
            if target is None:
                return
            del queue[blocked]
            self._send(request, target)

    def _pump_soon(self) -> None:
        """See to it that what waits is looked at, whoever waits for it."""
        if self._pumping or not self.queue or self.closed:
            return
        self._pumping = True
        if context.loop is not None:
            context.loop.call_soon_threadsafe(self._pump_on_loop)
        else:
            threading.Thread(target=self._pump_in_thread, name="skate-serve-queue", daemon=True).start()

    def _pump_on_loop(self) -> None:
        self._pump_task = asyncio.get_running_loop().create_task(self._pump())

    async def _pump(self) -> None:
        tick = TICK
        while self._go_on():
            await asyncio.sleep(tick)
            tick = self._next_tick(tick)

    def _pump_in_thread(self) -> None:
        tick = TICK
        while self._go_on():
            with self.changed:
                self.changed.wait(tick)
            tick = self._next_tick(tick)

    def _next_tick(self, tick: float) -> float:
        """Room that comes by other callers' requests is looked for often; the controller tells of new replicas."""
        return min(LONGEST_TICK, tick * 1.5) if self.targets else REPORT_AT_ZERO_S

    def _go_on(self) -> bool:
        """Send what can be sent; whether something still waits."""
        with self.lock:
            self._advance()
            waiting = len(self.queue)
            if not waiting or self.closed:
                self._pumping = False
        self._report(waiting)
        return self._pumping

    def _report(self, waiting: int) -> None:
        """Tell the controller how many wait, where it scales by that."""
        now = clock()
        if waiting and not self.report_every:
            return  # as far as is known: who has not heard of the deployment yet reports nothing
        every = min(self.report_every, REPORT_S if self.targets else REPORT_AT_ZERO_S)
        if (waiting and now - self.reported < every) or not (waiting or self.reported):
            return
        self.reported = now if waiting else 0.0
        try:
            context.controller().waiting.remote(self.app, self.deployment, self.name, waiting)
        except (exceptions.RayError, RuntimeError):
            return  # it will be told the next time

    def close(self) -> None:
        """Send nothing more."""
        with self.lock:
            self.closed = True
            for request in self.queue:
                request.fail(DeploymentUnavailableError(self.deployment, self.app, "serve was shut down"))
            self.queue.clear()
            self.targets, self.known = [], {}
            self.changed.notify_all()
        if self._task is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended already, and the task with it
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)
