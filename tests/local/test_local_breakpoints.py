"""A breakpoint in a worker waits for a debugger: what a debugger can do there, and what ends the wait."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from programs import eventually, output_of, program

import skate
from skate.core.debug_wire import NAME
from skate.core.sockets import knock
from skate.exceptions import GetTimeoutError, RayActorError, TaskCancelledError
from skate.util import rpdb
from skate.util.rpdb import Attached, Stop, attach, waiting


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sessions' folders of our own, so that no other program's breakpoints are found; and no debugger chosen."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(rpdb, "PATIENCE", 60.0)  # the machine may be busy
    monkeypatch.setattr(rpdb, "GLANCE", 3.0)
    for name in ("PYTHONBREAKPOINT", "SKATE_DEBUGGER", "RAY_DEBUG", "SKATE_POST_MORTEM", "RAY_DEBUG_POST_MORTEM"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def session(place: Path) -> Iterator[str]:
    """A session; where its folder is."""
    skate.init(engine="local", num_cpus=2, namespace="tests")
    yield str(place)
    skate.shutdown()


def one(folder: str) -> Stop:
    """The only breakpoint that waits, or will in a moment."""
    found: list[Stop] = []

    def there() -> bool:
        found[:] = [stop for stop in waiting(folder) if stop.state == "waits"]
        return len(found) == 1

    assert eventually(there), waiting(folder)
    return found[0]


class Talk:
    """An attached breakpoint, as a conversation."""

    def __init__(self, session: Attached) -> None:
        self.session = session
        self.say, self.listen = session.say, session.listen
        self.first = session.listen()

    @property
    def ended(self) -> str:
        return self.session.ended


@contextmanager
def talk(folder: str) -> Iterator[Talk]:
    """Attach to the only breakpoint there is."""
    with closing(attach(one(folder), folder)) as attached:
        yield Talk(attached)


@skate.remote
def square(x):
    y = x * x
    breakpoint()
    y += 1
    return y


@skate.remote(max_retries=0)
def failing(x):
    y = x - x
    return x / y


@skate.remote
def same(x):
    return x


@skate.remote
class Keeper:
    def __init__(self):
        self.total = 3

    def add(self, x):
        before = self.total
        breakpoint()
        self.total += x
        return before, self.total

    def get(self):
        return self.total


@skate.remote
class Async:
    async def wait(self, x):
        import asyncio

        y = x + 1
        breakpoint()
        await asyncio.sleep(0.01)
        y += 1
        return y

    async def ping(self):
        return "pong"


# --------------------------------------------------------------------------- a sitting


def test_a_task_is_looked_at_changed_and_goes_on(session):
    ref = square.remote(7)
    stop = one(session)
    assert (stop.task, stop.kind, stop.function, os.path.basename(stop.file)) == (
        "square",
        "breakpoint",
        "square",
        os.path.basename(__file__),
    )
    assert time.time() - stop.since < 120 and stop.can_interrupt
    with talk(session) as sitting:
        assert sitting.first.startswith("> ") and "-> y += 1" in sitting.first
        assert sitting.say("p x, y") == "(7, 49)\n"
        where = sitting.say("w")
        assert "-> y += 1" in where and "engines" not in where and "bdb" not in where
        assert "-> return y" in sitting.say("n")
        sitting.say("!y = 1000")
        sitting.say("c")
        assert sitting.ended == "The program goes on."
    assert skate.get(ref, timeout=60) == 1000
    assert waiting(session) == []


def test_stepping_ends_with_the_call_and_steps_over_the_engine(session):
    @skate.remote
    def inner():
        return 5

    @skate.remote
    def outer():
        breakpoint()
        value = skate.get(inner.remote())
        return value

    ref = outer.remote()
    with talk(session) as sitting:
        assert "value = skate.get" in sitting.first
        assert "return value" in sitting.say("s")
        assert "--Return--" in sitting.say("s")
        assert sitting.say("s") == "" and sitting.ended == "The call has ended."
    assert skate.get(ref, timeout=60) == 5


def test_a_breakpoint_set_by_hand_holds_to_the_end_of_the_call(session):
    @skate.remote
    def count():
        total = 0
        breakpoint()
        for i in range(3):
            total += i
        return total

    ref = count.remote()
    with talk(session) as sitting:
        line = one_line(count, "total += i")
        assert "Breakpoint 1" in sitting.say(f"b {line}")
        for i in range(3):
            assert "total += i" in sitting.say("c")
            assert sitting.say("p i") == f"{i}\n"
        sitting.say("c")
        assert sitting.ended == "The call has ended."
    assert skate.get(ref, timeout=60) == 3
    again = count.remote()  # the same worker, without the first one's breakpoints
    with talk(session) as sitting:
        sitting.say("c")
        assert sitting.ended == "The program goes on."
    assert skate.get(again, timeout=60) == 3


def one_line(function, text: str) -> int:
    import inspect

    lines, first = inspect.getsourcelines(function._function if hasattr(function, "_function") else function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def test_an_actors_method_its_state_and_the_calls_after_it(session):
    keeper = Keeper.remote()
    first, second = keeper.add.remote(4), keeper.get.remote()
    with talk(session) as sitting:
        assert one_waiting(session).task == "Keeper.add"
        assert sitting.say("p self.total") == "3\n"
        ready, _ = skate.wait([second], timeout=0.2)
        assert ready == []
        sitting.say("c")
    assert skate.get([first, second], timeout=60) == [(3, 7), 7]


def one_waiting(folder: str) -> Stop:
    (found,) = waiting(folder)
    return found


def test_a_coroutine_stops_its_loop_and_is_stepped_over_an_await(session):
    actor = Async.remote()
    assert skate.get(actor.ping.remote(), timeout=60) == "pong"
    ref = actor.wait.remote(1)
    with talk(session) as sitting:
        assert "asyncio.sleep" in sitting.first
        other = actor.ping.remote()
        assert skate.wait([other], timeout=0.2)[0] == []
        assert "y += 1" in sitting.say("n")
        assert sitting.say("p y") == "2\n"
        assert "return y" in sitting.say("n")
        sitting.say("n")
        assert sitting.ended == "The call has ended."
    assert skate.get([ref, other], timeout=60) == [3, "pong"]


def test_threads_of_an_actor_wait_each_for_itself(session):
    @skate.remote(max_concurrency=2)
    class Threads:
        def add(self, x):
            breakpoint()
            return x + 1

        def ping(self):
            return "pong"

    actor = Threads.remote()
    refs = [actor.add.remote(1), actor.add.remote(10)]
    assert eventually(lambda: len(waiting(session)) == 2)
    assert not any(stop.can_interrupt for stop in waiting(session))
    for stop in waiting(session):
        with closing(attach(stop, session)) as attached:
            sitting = Talk(attached)
            sitting.say("c")
            assert sitting.ended
    assert skate.get(refs, timeout=60) == [2, 11]
    assert skate.get(actor.ping.remote(), timeout=60) == "pong"


def test_a_generator_goes_on_item_by_item(session):
    @skate.remote
    def items():
        for i in range(3):
            if i == 1:
                breakpoint()
            yield i

    stream = items.remote()
    assert skate.get(next(stream)) == 0
    with talk(session) as sitting:
        assert "yield i" in sitting.first
        assert "for i in range" in sitting.say("n")
        sitting.say("c")
    assert [skate.get(ref) for ref in stream] == [1, 2]


def test_pdb_set_trace_and_post_mortem_wait_too(session):
    @skate.remote
    def old_fashioned():
        import pdb

        try:
            pdb.set_trace()
            raise KeyError("lost")
        except KeyError:
            pdb.post_mortem()
        return "on"

    ref = old_fashioned.remote()
    with talk(session) as sitting:
        assert "raise KeyError" in sitting.first
        sitting.say("c")
    with talk(session) as sitting:
        assert "KeyError: 'lost'" in sitting.first
        sitting.say("c")
    assert skate.get(ref, timeout=60) == "on"


def test_rpdb_set_trace_is_a_breakpoint_where_it_is_called(session):
    @skate.remote
    def with_ray():
        x = 5
        rpdb.set_trace()
        return x

    ref = with_ray.remote()
    with talk(session) as sitting:
        assert "return x" in sitting.first
        assert sitting.say("p x") == "5\n"
        sitting.say("c")
    assert skate.get(ref, timeout=60) == 5


def test_rays_names_of_it_are_there():
    import skate.util

    assert skate.util.pdb is skate.util.rpdb is rpdb


def test_what_is_evaluated_at_the_prompt_may_use_the_session(session):
    ref = square.remote(2)
    with talk(session) as sitting:
        assert sitting.say("import skate") == ""
        assert sitting.say("p skate.get(skate.put(11))") == "11\n"
        assert sitting.say("!print('shown', y)") == "shown 4\n"
        assert "passed over" in sitting.say("!breakpoint()")
        assert "1\n" in sitting.say("interact") + sitting.say("print(y - 3)")
        sitting.say("exit()")
        sitting.say("c")
    assert skate.get(ref, timeout=60) == 5


def test_tab_completes_names_and_commands(session):
    @skate.remote
    def task():
        remarkable = 5
        breakpoint()
        return remarkable

    def completed(text: str, line: str) -> list[str]:
        begin = len(line) - len(text)
        sitting.session.send("complete", [text, line, begin, len(line)])
        messages = sitting.session.read()
        assert messages is not None
        assert messages[0][0] == "completions"
        return messages[0][1]

    ref = task.remote()
    with talk(session) as sitting:
        assert completed("whe", "whe") == ["where"]
        assert completed("remark", "p remark") == ["remarkable"]
        assert completed("remarkable.rea", "p remarkable.rea") == ["remarkable.real"]
        assert completed("x.y", "p x.y") == []
        sitting.say("c")
    assert skate.get(ref, timeout=60) == 5


# ---------------------------------------------------------------- ends of a sitting


def test_quit_ends_the_task_with_an_error_that_says_so_and_no_retry(session, tmp_path):
    log = tmp_path / "log"

    @skate.remote(retry_exceptions=True, max_retries=5)
    def tried():
        with open(log, "a") as file:
            file.write("x")
        breakpoint()
        return 1

    ref = tried.remote()
    with talk(session) as sitting:
        sitting.say("q")
        assert sitting.ended == "The call ends here."
    with pytest.raises(skate.exceptions.RayTaskError, match="the debugger was told to quit at .*:"):
        skate.get(ref, timeout=60)
    assert log.read_text() == "x"


def test_who_leaves_is_waited_for_and_the_next_sees_where_it_is(session):
    ref = square.remote(3)
    with talk(session) as sitting:
        sitting.say("n")
    with talk(session) as sitting:
        assert "-> return y" in sitting.first
        assert sitting.say("p y") == "10\n"
        sitting.say("c")
    assert skate.get(ref, timeout=60) == 10


def test_the_second_who_attaches_is_told_who_is_there(session):
    ref = square.remote(3)
    stop = one(session)
    with talk(session) as sitting:
        assert one_waiting(session).state == "attached"
        with pytest.raises(ConnectionError, match=f"process {os.getpid()} is attached"):
            attach(stop, session)
        assert sitting.say("p y") == "9\n"
        sitting.say("c")
    assert skate.get(ref, timeout=60) == 10
    with pytest.raises(ConnectionError, match="waits no more"):
        attach(stop, session)


def test_a_cancel_ends_the_wait(session):
    ref = square.remote(3)
    one(session)
    skate.cancel(ref)
    with pytest.raises(TaskCancelledError):
        skate.get(ref, timeout=60)
    assert waiting(session) == []
    assert skate.get(same.remote(1), timeout=60) == 1


def test_a_cancel_tells_who_is_attached(session):
    ref = square.remote(3)
    with talk(session) as sitting:
        skate.cancel(ref)
        assert sitting.listen() == "" and sitting.ended == "The call was cancelled."
    with pytest.raises(TaskCancelledError):
        skate.get(ref, timeout=60)


@pytest.mark.parametrize("kind", ["plain", "async", "threaded"])
def test_a_cancelled_method_waits_no_more(session, kind):
    if kind == "async":
        actor = Async.remote()
        ref, ping = actor.wait.remote(1), actor.ping
    else:
        actor = Keeper.options(max_concurrency=2 if kind == "threaded" else 1).remote()
        ref, ping = actor.add.remote(1), actor.get
    one(session)
    skate.cancel(ref)
    with pytest.raises(TaskCancelledError):
        skate.get(ref, timeout=60)
    assert skate.get(ping.remote(), timeout=60) in ("pong", 3)
    assert eventually(lambda: waiting(session) == [])


def test_a_forced_cancel_and_a_kill_end_it(session):
    ref = square.remote(3)
    one(session)
    skate.cancel(ref, force=True)
    with pytest.raises((TaskCancelledError, skate.exceptions.WorkerCrashedError)):
        skate.get(ref, timeout=60)
    keeper = Keeper.remote()
    ref = keeper.add.remote(1)
    assert eventually(lambda: [stop.task for stop in waiting(session)] == ["Keeper.add"])
    with talk(session) as sitting:
        skate.kill(keeper)
        sitting.listen()
        assert sitting.ended == "The worker is gone."
    with pytest.raises(RayActorError):
        skate.get(ref, timeout=60)
    assert waiting(session) == []
    assert not any(name.startswith(NAME) for _, _, names in os.walk(session) for name in names)


def test_timeouts_hold_and_other_tasks_go_on(session):
    ref = square.remote(3)
    one(session)
    with pytest.raises(GetTimeoutError):
        skate.get(ref, timeout=0.2)
    assert skate.get([same.remote(i) for i in range(50)], timeout=60) == list(range(50))
    with talk(session) as sitting:
        sitting.say("c")
    assert skate.get(ref, timeout=60) == 10


def test_who_waits_for_it_is_in_no_deadlock(one_cpu, place):
    @skate.remote
    def asks(x):
        return skate.get(square.remote(x))

    ref = asks.remote(3)
    with talk(str(place)) as sitting:
        assert skate.wait([ref], timeout=0.3)[0] == []
        sitting.say("c")
    assert skate.get(ref, timeout=60) == 10


def test_what_the_call_held_goes_with_it(session):
    import gc
    import weakref

    class Thing:
        pass

    @skate.remote
    class Holder:
        def hold(self, steps):
            thing = Thing()
            self.seen = weakref.ref(thing)
            breakpoint()
            return steps

        def is_gone(self):
            gc.collect()
            return self.seen() is None

    holder = Holder.remote()
    for lines in (["c"], ["b 1", "n", "p thing", "c"], ["q"]):
        ref = holder.hold.remote(len(lines))
        with talk(session) as sitting:
            for line in lines:
                if not sitting.ended:
                    sitting.say(line)
        skate.wait([ref], timeout=60)
        assert skate.get(holder.is_gone.remote(), timeout=60)


def test_a_value_of_megabytes_is_shown_whole(session):
    ref = square.remote(3)
    with talk(session) as sitting:
        assert sitting.say("p 'x' * 5_000_000") == f"{'x' * 5_000_000!r}\n"
        assert sitting.say(r"p '\ud800'") == "'\\ud800'\n"
        sitting.say("c")
    assert skate.get(ref, timeout=60) == 10


def test_calls_that_were_sent_to_a_worker_that_stops_are_run_by_others(session):
    @skate.remote
    def maybe(i):
        if i == 5:
            breakpoint()
        return i

    skate.get([maybe.remote(0) for _ in range(50)])  # known to be short: many are sent at once
    refs = [maybe.remote(i) for i in range(200)]
    one(session)
    rest = [ref for i, ref in enumerate(refs) if i != 5]
    assert skate.get(rest, timeout=60) == [i for i in range(200) if i != 5]
    with talk(session) as sitting:
        sitting.say("c")
    assert skate.get(refs[5], timeout=60) == 5


def test_an_interrupt_stops_a_program_that_runs_and_a_second_one_ends_a_long_call(session, tmp_path):
    @skate.remote
    def loop():
        go = True
        count = 0
        breakpoint()
        (tmp_path / "loops").touch()
        while go:
            count += 1
        try:
            (tmp_path / "sleeps").touch()
            time.sleep(100)
        except KeyboardInterrupt:
            count = -1
        return count

    ref = loop.remote()
    with talk(session) as sitting:
        sitting.say("b 1")
        sitting.say("tbreak " + str(one_line(loop, "return count")))
        sitting.session.send("line", "c")
        assert eventually((tmp_path / "loops").exists)
        time.sleep(0.3)
        sitting.session.interrupt()
        assert re.search("-> (count|while)", sitting.listen())
        sitting.say("!go = False")
        sitting.session.send("line", "c")
        assert eventually((tmp_path / "sleeps").exists)
        time.sleep(0.3)
        sitting.session.interrupt()
        time.sleep(0.3)
        sitting.session.interrupt()
        heard = sitting.listen()
        assert "KeyboardInterrupt" in heard or "time.sleep" in heard, heard
        sitting.say("c")
        if not sitting.ended:
            sitting.say("c")
    assert skate.get(ref, timeout=60) == -1


def test_an_interrupt_that_comes_too_late_hurts_nobody(session):
    ref = square.remote(3)
    with talk(session) as sitting:
        sitting.session.send("line", "c")
        sitting.listen()
        pid = sitting.session.stop.pid
        os.kill(pid, signal.SIGINT)
    assert skate.get(ref, timeout=60) == 10
    assert skate.get([same.remote(i) for i in range(50)], timeout=60) == list(range(50))
    assert os.path.exists(f"/proc/{pid}")


# ------------------------------------------------------------------------- who may


def sockets(folder: str) -> list[Path]:
    return [path for path in Path(folder).rglob(NAME + "*") if path.is_socket()]


def test_the_socket_is_its_owners_alone(session):
    ref = square.remote(3)
    one(session)
    (path,) = sockets(session)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with talk(session) as sitting:
        sitting.say("c")
    assert skate.get(ref, timeout=60) == 10
    assert sockets(session) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_even_where_the_files_let_him_in(place, capfd):
    skate.init(engine="local", num_cpus=1)
    ref = square.remote(3)
    one(str(place))
    (path,) = sockets(str(place))
    os.chmod(path, 0o666)
    os.chmod(path.parent, 0o755)
    script = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "print(s.recv(1000))"
    )
    there = os.open(path.parent, os.O_PATH)  # past the folders around it, which are closed to others
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", script, f"/proc/self/fd/{there}/{path.name}"],
            capture_output=True,
            text=True,
            timeout=60,
            pass_fds=[there],
        )
    finally:
        os.close(there)
    assert "belongs to another user" in done.stdout, done.stderr
    os.chmod(path.parent, 0o700)
    with talk(str(place)) as sitting:
        sitting.say("c")
    assert skate.get(ref, timeout=60) == 10
    skate.shutdown()
    assert "was refused: it came from process" in capfd.readouterr().err


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\n",
        b"[1]\n",
        b'{"do": 7}\n',
        b'{"line": "q"}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"a":1,"b":2}\n',
    ],
)
def test_who_talks_nonsense_is_shown_out_and_changes_nothing(session, sent):
    ref = square.remote(3)
    stop = one(session)
    (path,) = sockets(session)
    stranger = knock(str(path.parent), path.name, 5)
    stranger.sendall(sent)
    if not sent:
        stranger.shutdown(socket.SHUT_WR)
    assert stranger.recv(1000) == b""
    stranger.close()
    attached = attach(stop, session)
    attached.lines.socket.sendall(b'{"line": 7}\n')
    while attached.read() is not None:
        continue
    attached.close()
    with talk(session) as sitting:
        assert sitting.say("p y") == "9\n"
        sitting.say("c")
    assert skate.get(ref, timeout=60) == 10


def test_a_crowd_at_the_door_keeps_nobody_out(session):
    ref = square.remote(3)
    one(session)
    (path,) = sockets(session)
    crowd = []
    for _ in range(100):
        crowd.append(knock(str(path.parent), path.name, 5))
    with talk(session) as sitting:
        sitting.say("c")
    for stranger in crowd:
        stranger.close()
    assert skate.get(ref, timeout=60) == 10


# ------------------------------------------------------------------- choice, and none


@pytest.mark.parametrize(
    "environment", [{"PYTHONBREAKPOINT": "0"}, {"RAY_DEBUG": "0"}, {"PYTHONBREAKPOINT": "0", "SKATE_DEBUGGER": "pdb"}]
)
def test_breakpoints_can_be_switched_off(environment, place):
    text = """
    ray.init(num_cpus=1)
    @ray.remote
    def task():
        breakpoint()
        return 1
    print(ray.get(task.remote(), timeout=60))
    """
    assert output_of(text, env=environment).split() == ["1"]


def test_another_callable_is_left_alone(place, tmp_path):
    (tmp_path / "my_hook.py").write_text(
        "import os\ndef hook(*args): open(os.environ['MARKED'], 'a').write('called')\n"
    )
    text = """
    ray.init(num_cpus=1)
    @ray.remote
    def task():
        breakpoint()
        return 1
    print(ray.get(task.remote(), timeout=60))
    """
    environment = {
        "PYTHONBREAKPOINT": "my_hook.hook",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
        "MARKED": str(tmp_path / "marked"),
    }
    assert output_of(text, env=environment).split() == ["1"]
    assert (tmp_path / "marked").read_text() == "called"


def test_a_place_where_no_socket_can_be_is_said_and_passed_over(place):
    text = """
    import shutil
    ray.init(num_cpus=1)
    for name in os.listdir(os.environ["TMPDIR"]):
        shutil.rmtree(os.path.join(os.environ["TMPDIR"], name))
    @ray.remote
    def task():
        breakpoint()
        return 1
    print(ray.get(task.remote(), timeout=60))
    """
    with program(text) as started:
        status, out, err = started.end()
    assert status == 0 and out.split() == ["1"]
    assert "was passed over" in err


# ------------------------------------------------------------------- after an error


@pytest.mark.parametrize("variable", ["SKATE_POST_MORTEM", "RAY_DEBUG_POST_MORTEM"])
def test_an_error_waits_at_its_frame(place, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    skate.init(engine="local", num_cpus=2)
    folder = str(place)
    ref = failing.remote(3)
    stop = one(folder)
    assert (stop.kind, stop.task, stop.function) == ("post-mortem", "failing", "failing")
    with talk(folder) as sitting:
        assert "ZeroDivisionError: division by zero" in sitting.first and "return x / y" in sitting.first
        assert sitting.say("p x, y") == "(3, 0)\n"
        assert "engines" not in sitting.say("w")
        sitting.say("c")
        assert sitting.ended == "The call fails with its error."
    with pytest.raises(ZeroDivisionError):
        skate.get(ref, timeout=60)


def test_an_error_that_is_tried_again_does_not_wait_until_the_last_time(place, monkeypatch, tmp_path):
    monkeypatch.setenv("SKATE_POST_MORTEM", "1")
    skate.init(engine="local", num_cpus=1)
    log = tmp_path / "log"

    @skate.remote(max_retries=2, retry_exceptions=True)
    def tried():
        with open(log, "a") as file:
            file.write("x")
        raise ValueError("again")

    ref = tried.remote()
    with talk(str(place)) as sitting:
        assert log.read_text() == "xxx"
        sitting.say("q")
    with pytest.raises(ValueError, match="again"):
        skate.get(ref, timeout=60)


def test_a_wait_after_an_error_can_be_cancelled_and_is_no_matter_for_cancelled_calls(place, monkeypatch):
    monkeypatch.setenv("SKATE_POST_MORTEM", "1")
    skate.init(engine="local", num_cpus=1)
    ref = failing.remote(3)
    one(str(place))
    skate.cancel(ref)
    with pytest.raises(TaskCancelledError):
        skate.get(ref, timeout=60)

    @skate.remote
    def sleep():
        time.sleep(100)

    sleeping = sleep.remote()
    time.sleep(0.3)
    skate.cancel(sleeping)
    with pytest.raises(TaskCancelledError):
        skate.get(sleeping, timeout=60)
    assert waiting(str(place)) == []


def test_an_error_of_another_task_shows_where_it_was_asked_for(place, monkeypatch):
    monkeypatch.setenv("SKATE_POST_MORTEM", "1")
    skate.init(engine="local", num_cpus=2)

    @skate.remote
    def asks(refs):
        return skate.get(refs[0])

    failed = failing.remote(1)
    with talk(str(place)) as sitting:
        sitting.say("c")
    ref = asks.remote([failed])
    with talk(str(place)) as sitting:
        assert "skate.get(refs[0])" in sitting.first
        sitting.say("c")
    with pytest.raises(ZeroDivisionError):
        skate.get(ref, timeout=60)


# ------------------------------------------------------------------- the driver's end


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_driver_ends_the_wait_and_its_socket_is_swept(place, number):
    text = """
    ray.init(num_cpus=1)
    @ray.remote
    def task():
        breakpoint()
    ray.get(task.remote())
    """
    with program(text) as driver:
        with talk(str(place)) as sitting:
            os.kill(driver.pid, number)
            driver.process.wait(90)
            sitting.listen()
            assert sitting.ended == "The worker is gone."
        assert eventually(lambda: not driver.family())
    assert waiting(str(place)) == []
    output_of("ray.init(num_cpus=1)")
    assert list(place.iterdir()) == []


def test_a_shutdown_ends_the_wait(place):
    skate.init(engine="local", num_cpus=1)
    square.remote(3)
    with talk(str(place)) as sitting:
        skate.shutdown()
        sitting.listen()
        assert sitting.ended == "The worker is gone."
    assert list(place.iterdir()) == []


# ------------------------------------------------------------------------- debugpy


class Editor:
    """As much of the Debug Adapter Protocol as an editor needs to look around."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.socket.makefile("rb")
        self.number = 0

    def send(self, command: str, **arguments: object) -> int:
        self.number += 1
        body = json.dumps({"seq": self.number, "type": "request", "command": command, "arguments": arguments}).encode()
        self.socket.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return self.number

    def until(self, kind: str, name: str) -> dict:
        """The next event or response of that name."""
        while True:
            length = 0
            while line := self.file.readline().strip():
                length = int(line.split(b":")[1])
            message = json.loads(self.file.read(length))
            if message["type"] == kind and message.get("event" if kind == "event" else "command") == name:
                return message

    def ask(self, command: str, **arguments: object) -> dict:
        self.send(command, **arguments)
        return self.until("response", command)["body"]

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.mark.skipif(importlib.util.find_spec("debugpy") is None, reason="debugpy is not installed")
@pytest.mark.parametrize("choice", [{"SKATE_DEBUGGER": "debugpy"}, {"RAY_DEBUG": "1"}])
def test_an_editor_attaches_through_debugpy(place, choice, tmp_path):
    (tmp_path / "job.py").write_text("def task(x):\n    y = x * 2\n    breakpoint()\n    return y\n")
    text = """
    from job import task
    ray.init(num_cpus=1)
    print(ray.get(ray.remote(task).remote(21)))
    """
    with program(text, env=choice, folder=tmp_path) as driver:
        line = driver.process.stderr.readline()
        while "waits at" not in line:
            assert line, "the program ended"
            line = driver.process.stderr.readline()
        address = line.split()[-1]
        assert address.startswith("127.0.0.1:")
        with closing(Editor(int(address.split(":")[1]))) as editor:
            editor.ask("initialize", adapterID="test", pathFormat="path")
            editor.send("attach", justMyCode=False)
            editor.until("event", "initialized")
            editor.send("configurationDone")
            thread = editor.until("event", "stopped")["body"]["threadId"]
            frame = editor.ask("stackTrace", threadId=thread)["stackFrames"][0]
            assert frame["name"] == "task"
            assert editor.ask("evaluate", expression="y", frameId=frame["id"])["result"] == "42"
            editor.send("continue", threadId=thread)
            editor.until("response", "continue")
            status, out, _ = driver.end()
        assert (status, out.split()) == (0, ["42"])
        assert eventually(lambda: not driver.family()), driver.family()
