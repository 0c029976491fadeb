"""A caller's side of a deployment: which replica gets a request, what waits, what is tried again.

Each process has one `Router` for a deployment that it has handles of. It hears from the controller by a call that stays
open until something changes. It picks the less busy of two replicas chosen at random; when all have as many requests as
they may, requests wait here, and over ``max_queued_requests`` they are turned away.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

import skate
from skate import exceptions
from skate.serve import board, context
from skate.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from skate.serve.holders import Holders
from skate.serve.listener import Listener
from skate.serve.replica import Refused
from skate.serve.told import Target, Told

if TYPE_CHECKING:
    from skate.serve.deployment_parts import BackpressureConfig, RequestRouterConfig
    from skate.serve.request import Request
    from skate.serve.routing import Routing

TICK, LONGEST_TICK = 0.001, 0.004
"""Seconds between two looks at whether a request that waits can go."""
ALONE_S = 2.0
"""Seconds without a controller after which requests do not wait for replicas any more."""
ROUTED_TICK = 0.05
"""The same where a router of the program's own looks by itself."""
REAP_EVERY = 128
REPORT_S, REPORT_AT_ZERO_S = 1.0, 0.1
"""Seconds between reports of what waits here, at most; and while there are no replicas."""

clock = time.monotonic
_routers: dict[tuple[str, str], Router] = {}
_made = threading.Lock()
_numbers = count(random.getrandbits(30) << 33 | 1)
_session = ""


def next_number() -> int:
    """A number that no other request of this machine has, with luck."""
    return next(_numbers)


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


class Router(Listener):
    """Sends the requests of this process to the replicas of one deployment."""

    def __init__(self, app: str, deployment: str, told: Told | None = None) -> None:
        super().__init__(("replicas", app, deployment))
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
        self.backpressure: BackpressureConfig | None = None
        self.routing: Routing | None = None
        """Who chooses, where it is a router of the program's own."""
        self.report_every = 0.0
        self.reported = 0.0
        self.sent = 0
        self.alone_since = 0.0
        """When it was found first that there is no controller; 0: there is one, as far as is known."""
        self._pumping = False
        if told is not None:
            self.hear(told)
        self.listen()

    # ------------------------------------------------------------------ hearing from the controller

    def hear(self, told: Told, asked: int | None = None) -> None:
        """Take in what the controller told; `asked`: the version that was known here when it was asked."""
        news = told.get(self.key)
        if news is None:
            return
        version, published = news
        with self.lock:
            if version == self.version:
                return
            if asked is not None and asked != self.version and version < self.version:
                return  # something newer has come since
            self.version, self.alone_since = version, 0.0
            page = board.private() if published.place is None else board.attach(published.place, context.session_folder)
            known = {}
            for entry in published.replicas:
                target = self.known.get(entry.name)
                if target is None:
                    target = Target(entry, page)
                else:
                    target.take(entry)
                known[entry.name] = target
            self.known = known
            self.targets = list(known.values())
            self.max_queued = published.max_queued
            self.backpressure = published.backpressure
            self.state = published.state
            self.report_every = published.report_every
            self._route_by(published.routing)
            self._advance()
            self.changed.notify_all()

    def wait_until_known(self, deadline: float | None) -> None:
        """Block until the controller has told of the replicas. Raises TimeoutError."""
        with self.changed:
            while self.version < 0:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"The replicas of {self.deployment!r} were not known when the time was up.")
                self.changed.wait(left)

    def _route_by(self, routing: RequestRouterConfig | None) -> None:
        """Have the program's own router choose, where there is one; `lock` is held."""
        old = self.routing
        if routing is None:
            self.routing = None
        elif old is None or old.config != routing:
            from skate.serve.routing import Routing

            self.routing = Routing(self, routing)
        if old is not None and old is not self.routing:
            old.close(wait=False)
        if self.routing is not None:
            self.routing.take(self.targets)

    # ------------------------------------------------------------------ sending

    def submit(self, request: Request) -> None:
        """Send a request, or have it wait."""
        with self.lock:
            direct = self.routing is None or request.pin is not None
            if direct and not self.queue and request.is_ready():
                target = self._choose_for(request)
                if target is not None:
                    request.direct = True
                    self._send(request, target)
                    return
                if request.is_over():
                    return
            if 0 <= self.max_queued <= len(self.queue):
                request.fail(self._turned_away())
                return
            self.queue.append(request)
            self._advance()
            self._pump_soon()

    def _turned_away(self) -> BackPressureError:
        answer = self.backpressure
        if answer is None:
            return BackPressureError(len(self.queue), self.max_queued)
        return BackPressureError(len(self.queue), self.max_queued, answer.status_code, answer.retry_after_s)

    def _choose_for(self, request: Request) -> Target | None:
        """Where a request goes; None: it waits."""
        if request.pin is not None:
            return self._pinned(request, request.pin)
        model = request.meta[3]
        if model:
            return self.holders.choose(model, self.targets, self._has_room, request.made)
        return self._choose()

    def _pinned(self, request: Request, target: Target) -> Target | None:
        """The one replica that may have a request."""
        if target not in self.targets:
            request.fail(ReplicaUnavailableError(target.name))
            return None
        return target if self._has_room(target) else None

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

    def notice_ended(self) -> None:
        """Notice requests that have ended on replicas that seem full."""
        with self.lock:
            for target in self.targets:
                if len(target.flying) >= target.max_ongoing:
                    self._reap(target)

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
            if self.routing is not None:
                self.routing.ended(request, target)
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
        """The replica that was to give `ref` is gone; True when the request is sent anew."""
        with self.lock:
            target = request.target
            if target is None or request.ref is not ref:
                return True
            target.flying.pop(request.number, None)
            self._drop(target)
            if target.alone or board.had_begun(target.words, target.word, request.number, request.begun_before):
                if not request.may_run_again:
                    return False
                request.may_run_again -= 1
            request.take_back()
            self.queue.appendleft(request)
            self._advance()
            self._pump_soon()
        return True

    def send_chosen(self, request: Request, target: Target) -> bool:
        """Send a request to the replica that the program's own router chose, if it waits and there is room."""
        with self.lock:
            if target not in self.targets or request.is_over() or not self._has_room(target):
                return False
            try:
                self.queue.remove(request)
            except ValueError:
                return False
            self._send(request, target)
        return True

    def _drop(self, target: Target) -> None:
        self.targets = [each for each in self.targets if each is not target]
        if self.routing is not None:
            self.routing.take(self.targets)

    def nobody_there(self) -> None:
        """No controller: after a while nothing can be hoped for but the replicas that are known."""
        now = clock()
        with self.lock:
            self.alone_since = self.alone_since or now
            if now - self.alone_since >= ALONE_S and not self.targets:
                self._fail_all("serve does not run in this session")

    def session_ended(self) -> None:
        """No router of this process is of use any more."""
        forget_all()

    # ------------------------------------------------------------------ what waits

    def _advance(self) -> None:
        """Send what can be sent now; `lock` is held."""
        queue = self.queue
        if self.state and queue:
            self._fail_all(self.state)
        if self.routing is not None:
            self.routing.look()
            return
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
            if target is None and (request.meta[3] or request.pin is not None):
                blocked += 1  # it waits for those that hold its model, or for the one that it must go to
                continue
            if target is None:
                return
            del queue[blocked]
            self._send(request, target)

    def _fail_all(self, why: str) -> None:
        for request in self.queue:
            request.fail(DeploymentUnavailableError(self.deployment, self.app, why))
        self.queue.clear()

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
        if self.routing is not None:
            return ROUTED_TICK
        return min(LONGEST_TICK, tick * 1.5) if self.targets else REPORT_AT_ZERO_S

    def _go_on(self) -> bool:
        """Send what can be sent; whether something still waits."""
        with self.lock:
            self._advance()
            waiting = len(self.queue)
            if not waiting or self.closed:
                self._pumping = False
        self._report(waiting)
        self.ask_if_overdue()
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
            self._fail_all("serve was shut down")
            self.targets, self.known = [], {}
            self.changed.notify_all()
        self.stop_listening()
        if self.routing is not None:
            self.routing.close()
