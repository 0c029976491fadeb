"""A compiled graph's driver: its shared memory, the channels that begin and end in it, and a watch over the actors."""

from __future__ import annotations

import os
import secrets
import select
import threading
import time
from typing import Any

from skate.api import get
from skate.core import engine as engines
from skate.dag.actor_loop import Share, join_graph
from skate.dag.channel import VALUE, Member, Message, Receiver, Sender
from skate.dag.memory import CLOSED, PAGE, TOKEN, Memory, bell, ended, fence
from skate.dag.plan import DRIVER, Plan
from skate.dag.values import Data, Kept, encode
from skate.exceptions import RayChannelError, RayError

ANSWER = 10.0
"""Seconds to wait for an actor to say how it died."""


class DriverEnd:
    """The driver's part in a graph whose actors run in other processes. Who uses it sees to it that one thread at a
    time submits, and one at a time reads."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.actors = plan.actors
        self.memory = Memory.create(plan.size)
        self.memory.words[TOKEN] = self.token = secrets.randbits(63)
        for place in _places(plan):
            for number in range(place.slots):
                self.memory.reserve(place.slot(number), PAGE)
        self.member = Member(self.memory, DRIVER)
        self.kept = Kept()
        self.keys = [feed.keys for feed in plan.feeds]
        self.senders = [Sender(self.member, feed.place) for feed in plan.feeds]
        self.simple = self.keys == [None]
        """Whether the whole input goes to one actor."""
        self.encoded: Data = b""
        """What `submit_now` could not send."""
        self.receivers = [Receiver(self.member, place) for place in plan.results[0]]
        self._receive_soon = self.receivers[0].receive_soon if len(self.receivers) == 1 else None
        self.partly: list[Message] = []
        """What was read of the results of the next run; the rest was interrupted."""
        self.reading = threading.Lock()
        self.member.look_in = self._look_in
        self.closed = False
        """Whether `close` was called."""
        self.broken: str = ""
        """Why the graph cannot go on, if not for an actor's death."""
        self.watch: Watch | None = None

    def start(self) -> bool:
        """Have the actors join; False if they live in this very process, which needs no channels."""
        calls = []
        for number, (actor, operations) in enumerate(zip(self.actors, self.plan.operations, strict=True), 1):
            members = len(self.actors) + 1
            share = Share(os.getpid(), self.memory.fd, self.plan.size, self.token, number, members, operations)
            calls.append(actor.__ray_call__.remote(join_graph, share))
        pids = []
        try:
            for call in calls:
                pids.append(get(call))
            if os.getpid() in pids:
                self.close()
                return False
            self.watch = Watch(self.memory, pids)
        except BaseException:
            self.close()
            raise
        return True

    # ------------------------------------------------------------------- running it

    def submit(self, args: tuple[Any, ...], kwargs: dict[str, Any], deadline: float | None) -> None:
        """Send the input of one run, which `submit_now` could not.

        Raises as `Member.sleep` does, and TypeError for what cannot be pickled.
        """
        messages = []
        for keys in self.keys:
            if self.simple:
                messages.append(self.encoded)
                break
            if keys is None:
                value = args[0]
            elif len(keys) == 1:
                value = args[keys[0]] if isinstance(keys[0], int) else kwargs[keys[0]]
            else:
                value = tuple([args[key] if isinstance(key, int) else kwargs[key] for key in keys])
            messages.append(encode(value, self.kept))
        for sender in self.senders:
            sender.wait_for_room(deadline)  # of all, before anything is sent to one
        done = 0
        try:
            for sender, message in zip(self.senders, messages, strict=True):
                sender.send(VALUE, message, deadline)
                done += 1
        except BaseException:
            if done or self.senders[0].in_parts:
                self.broken = "An input was interrupted when it had been sent in part, so the graph was closed."
                self.close()
            raise

    def has_room(self) -> bool:
        """Whether an input can be sent, in part at least, without waiting."""
        return all(sender.has_room() for sender in self.senders)

    def submit_now(self, value: Any) -> bool:
        """`submit` for the usual case, one short value for one actor that has room; False if it is another case."""
        if not self.simple:
            return False
        self.encoded = data = encode(value, self.kept)
        return self.senders[0].send_now(VALUE, data)

    def fetch_soon(self) -> Message | None:
        """`fetch` for the usual case, one result that comes soon; None if it is another case."""
        return self._receive_soon() if self._receive_soon is not None else None

    def fetch(self, deadline: float | None) -> list[Message]:
        """The results of the next run, one for each channel; raises as `Member.sleep` does."""
        partly = self.partly
        if len(self.receivers) == 1:
            return [self.receivers[0].receive(deadline)]
        for receiver in self.receivers[len(partly) :]:
            partly.append(receiver.receive(deadline))
        self.partly = []
        return partly

    def arrived(self) -> bool:
        """Whether the next run's results are all there."""
        return all(receiver.ready() for receiver in self.receivers[len(self.partly) :])

    def _look_in(self) -> None:
        """While this process waits: it may be for room, and others for it to take results."""
        if self.reading.acquire(False):
            try:
                self.member.take_in()
            finally:
                self.reading.release()

    def why_closed(self) -> RayError:
        """What to raise for a graph that has ended by itself."""
        dead = self.watch.dead if self.watch is not None else 0
        if self.broken or self.closed or not dead:
            text = "The compiled graph was torn down." if self.closed else "An actor's loop failed: see its output."
            return RayChannelError(self.broken or text)
        if engines.running() is None:
            return RayChannelError("The session of the compiled graph has ended.")
        try:
            get(self.actors[dead - 1].__ray_ready__.remote(), timeout=ANSWER)
        except RayError as error:
            return error
        return RayChannelError(f"{self.actors[dead - 1]} died and was restarted: compile the graph anew.")

    # ---------------------------------------------------------------------- the end

    def close(self) -> None:
        """End the graph; its actors stop when they have done what they are doing."""
        memory = self.memory
        self.closed = True
        memory.words[CLOSED] = 1
        fence()
        for number in range(len(self.actors) + 1):
            memory.knock(bell(number))
        self.kept.drop()
        memory.close()

    def release(self) -> None:
        """Look after the actors no more."""
        if self.watch is not None:
            self.watch.stop()

    def wait_for_actors(self, seconds: float) -> None:
        """Return when no actor is at work for the graph any more, or when time is up."""
        watch, words = self.watch, self.memory.words
        if watch is None:
            return
        end = None if seconds < 0 else time.monotonic() + seconds
        while any(not words[ended(number)] and watch.lives(number) for number in range(1, len(self.actors) + 1)):
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            word = bell(DRIVER)
            words[word] = 1
            fence()
            if any(not words[ended(number)] and watch.lives(number) for number in range(1, len(self.actors) + 1)):
                self.memory.sleep(word, left)


class Watch:
    """A thread that sleeps until an actor's process ends, and closes the graph then."""

    def __init__(self, memory: Memory, pids: list[int]) -> None:
        self.memory = memory
        self.dead = 0
        """The member that died first; 0: none."""
        self.left: dict[int, int] = {}
        """Members that live, by the descriptors of their processes."""
        for member, pid in enumerate(pids, 1):
            try:
                self.left[os.pidfd_open(pid)] = member
            except ProcessLookupError:
                self._note(member)
        self.members = len(pids)
        self.over = os.eventfd(0)
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name="skate-graph-watch", daemon=True)
        self.thread.start()

    def lives(self, member: int) -> bool:
        """Whether the member's process is there."""
        return member in self.left.values()

    def stop(self) -> None:
        """End the thread."""
        with self.lock:
            if self.over >= 0:
                os.eventfd_write(self.over, 1)

    def _note(self, member: int) -> None:
        self.dead = self.dead or member
        self.memory.words[CLOSED] = 1

    def _run(self) -> None:
        looks = select.poll()
        for fd in (self.over, *self.left):
            looks.register(fd, select.POLLIN)
        while self.left:
            ready = [fd for fd, _ in looks.poll()]
            if self.over in ready:
                break
            for fd in ready:
                looks.unregister(fd)
                self._note(self.left.pop(fd))
                os.close(fd)
            fence()
            for number in range(self.members + 1):
                self.memory.knock(bell(number))
        with self.lock:
            for fd in (self.over, *self.left):
                os.close(fd)
            self.over = -1


def _places(plan: Plan) -> list[Any]:
    led = [place for operations in plan.operations for operation in operations for place, _ in operation.writes]
    return [*(feed.place for feed in plan.feeds), *led]
