"""A session's door: other programs of the same user become its drivers; nobody else, and nothing harms the hub."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import eventually, marked, output_of, program

import skate
from skate.core.engine import current
from skate.core.sockets import Address
from skate.engines.local import door
from skate.engines.local.door import SOCKET, python_version
from skate.engines.local.link import framed
from skate.engines.local.messages import Attach, Done

HERE = 'ray.init(address=sys.argv[1], namespace="guests")\n'


@pytest.fixture
def address() -> Iterator[str]:
    """A session of our own, and where it is."""
    yield skate.init(engine="local", num_cpus=2, namespace="host", log_to_driver=False).address_info["session_dir"]
    skate.shutdown()


ENDED = ("FINISHED", "FAILED", "DEAD")


def rows(kind: str) -> list[dict[str, object]]:
    """Of what there is, not of what history remembers."""
    return [row for row in current().state(kind) if row.get("state") not in ENDED or kind == "objects"]


def host_still_works() -> bool:
    @skate.remote
    def double(x: int) -> int:
        return 2 * x

    return skate.get([double.remote(i) for i in range(3)], timeout=60) == [0, 2, 4]


def nothing_is_left() -> bool:
    """Whether no guest has anything in the hub any more."""
    gc.collect()
    hub = current().host.hub
    return not (rows("tasks") or rows("actors") or rows("objects") or hub.arena.used) and all(
        worker.job is None for worker in hub.workers.values()
    )


# ---------------------------------------------------------------------- what a guest can do


def test_the_door_is_for_its_owner_alone(address: str) -> None:
    about = os.stat(os.path.join(address, "door"))
    assert stat.S_ISSOCK(about.st_mode) and stat.S_IMODE(about.st_mode) == 0o600
    assert stat.S_IMODE(os.stat(address).st_mode) == 0o700


def test_guest_makes_tasks_actors_objects_and_streams(address: str) -> None:
    text = """
    import numpy as np

    @ray.remote
    def add(x, y=1):
        return x + y

    @ray.remote
    def nested(n):
        return sum(ray.get([add.remote(i) for i in range(n)]))

    @ray.remote(num_returns="streaming")
    def count(n):
        yield from range(n)

    @ray.remote
    class Total:
        def __init__(self): self.total = 0
        def add(self, x): self.total += x; return self.total

    large = ray.put(np.arange(1 << 18))
    total = Total.remote()
    print(ray.get(add.remote(1)), ray.get(nested.remote(4)), [ray.get(ref) for ref in count.remote(3)])
    print([ray.get(total.add.remote(i)) for i in range(4)], int(ray.get(add.remote(large)).sum()))
    print(ray.get(ray.put({"a": [large]}))["a"] == [large], add.remote(3).future().result())
    ready, rest = ray.wait([add.remote(i) for i in range(5)], num_returns=5, timeout=60)
    print(len(ready), rest, ray.cluster_resources()["CPU"])
    """
    out = output_of(HERE + _dedent(text), address)
    large = sum(range(1 << 18)) + (1 << 18)
    assert out.splitlines() == ["2 10 [0, 1, 2]", f"[0, 1, 3, 6] {large}", "True 4", "5 [] 2.0"]
    assert eventually(nothing_is_left)


def test_guest_awaits_with_asyncio(address: str) -> None:
    text = """
    import asyncio

    @ray.remote
    def square(x):
        return x * x

    async def main():
        return await asyncio.gather(*[square.remote(i) for i in range(50)])

    print(sum(asyncio.run(main())), sum(asyncio.run(main())))
    """
    assert output_of(HERE + _dedent(text), address) == "40425 40425\n"


def test_guest_is_a_driver_of_its_own_namespace_and_job(address: str) -> None:
    text = """
    @ray.remote
    def about():
        context = ray.get_runtime_context()
        return context.namespace, context.get_job_id(), dict(context.runtime_env)

    context = ray.get_runtime_context()
    print(context.namespace, context.get_job_id(), context.get_task_id(), ray.get(about.remote()))
    """
    assert skate.get_runtime_context().get_job_id() == "01000000"
    assert output_of(HERE + _dedent(text), address) == "guests 02000000 None ('guests', '02000000', {})\n"
    jobs = [(row["type"], row["status"], row["driver_info"]["pid"]) for row in rows("jobs")]
    assert jobs[0] == ("DRIVER", "RUNNING", os.getpid()) and jobs[1][:2] == ("DRIVER", "SUCCEEDED")


def test_names_of_another_namespace_need_its_name(address: str) -> None:
    @skate.remote
    class Held:
        def value(self) -> int:
            return 7

    held = Held.options(name="held").remote()
    text = """
    try:
        ray.get_actor("held")
    except ValueError as error:
        print("namespace 'guests'" in str(error))
    print(ray.get(ray.get_actor("held", namespace="host").value.remote()))
    """
    assert output_of(HERE + _dedent(text), address) == "True\n7\n"
    assert skate.get(held.value.remote(), timeout=60) == 7


def test_actor_found_right_after_its_handle_was_dropped_lives(address: str) -> None:
    text = """
    @ray.remote
    class Named:
        def ping(self): return 1

    def again_and_again():
        found = 0
        for _ in range(60):
            named = Named.options(name="named", get_if_exists=True).remote()
            found += ray.get(named.ping.remote(), timeout=60)
            del named
        return found

    print(again_and_again(), ray.get(ray.remote(again_and_again).remote()))
    """
    assert output_of(HERE + _dedent(text), address) == "60 60\n"


def test_environment_path_and_folder_are_the_guests(address: str, tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("answer = 42\n")
    text = """
    ray.init(address=sys.argv[1], runtime_env={"env_vars": {"FLAVOUR": "sour"}})

    @ray.remote
    def look():
        import only_here
        return only_here.answer, os.getcwd(), os.environ["FLAVOUR"]

    @ray.remote(runtime_env={"env_vars": {"COLOUR": "red"}})
    def deeper():
        return os.environ["COLOUR"], dict(ray.get_runtime_context().runtime_env), ray.get(look.remote())

    print(ray.get(deeper.remote()))
    """
    out = output_of(text, address, folder=tmp_path)
    both = {"env_vars": {"COLOUR": "red", "FLAVOUR": "sour"}}
    assert out == f"{('red', both, (42, str(tmp_path), 'sour'))}\n"


def test_workers_print_where_their_driver_is(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    text = """
    @ray.remote
    def speak(i):
        print("word", i)
        print("cry", i, file=sys.stderr)

    ray.get([speak.remote(i) for i in range(20)])
    sys.stdin.readline()
    """
    with program(HERE + _dedent(text), address, stdin=-1) as guest:
        out = [guest.process.stdout.readline() for _ in range(20)]
        err = [guest.process.stderr.readline() for _ in range(20)]
        rest, error = guest.process.communicate("go\n", timeout=60)
        assert (guest.process.returncode, rest) == (0, ""), error
    assert sorted(line.split(") ")[1] for line in out) == sorted(f"word {i}\n" for i in range(20))
    assert all("cry" in line for line in err)
    assert "word" not in capfd.readouterr().out


def test_output_for_a_guest_that_does_not_read_waits_in_the_workers(address: str) -> None:
    text = """
    @ray.remote
    def flood():
        for _ in range(400):
            print("x" * 99_999)

    class Counting:
        def __init__(self, file):
            self.file, self.seen = file, 0

        def write(self, text):
            self.seen += text.count("x")
            return self.file.write(text)

        def flush(self):
            self.file.flush()

    sys.stdout = Counting(sys.stdout)
    print("begun", flush=True)  # while nothing else is written that could come into this line
    ref = flood.remote()
    os.kill(os.getpid(), signal.SIGSTOP)
    ray.get(ref)
    while sys.stdout.seen < 400 * 99_999:
        time.sleep(0.02)
    """
    with program(HERE + _dedent(text), address) as guest:
        guest.until("begun")
        time.sleep(2)
        assert host_still_works()
        (peer,) = [worker for worker in current().host.hub.workers.values() if isinstance(worker, door.Peer)]
        assert sum(map(len, peer.link.unsent)) < 4 * door.READ_SIZE + (8 << 20) + (2 << 20)
        os.kill(guest.pid, signal.SIGCONT)
        status, out, err = guest.end(90)
    assert status == 0, err
    assert out.count("x" * 99_999) == 400


def test_wait_that_nothing_can_end_is_told(address: str) -> None:
    text = """
    @ray.remote(num_cpus=99)
    def never():
        return 1

    try:
        ray.get(never.remote())
    except ray.exceptions.TaskUnschedulableError as error:
        print("told")
    """
    assert output_of(HERE + _dedent(text), address) == "told\n"


def test_ctrl_c_ends_a_guests_wait_and_nothing_else(address: str) -> None:
    text = """
    @ray.remote
    def nap(seconds):
        time.sleep(seconds)
        return seconds

    long = nap.remote(100)
    try:
        print("waiting", flush=True)
        ray.get(long)
    except KeyboardInterrupt:
        print("interrupted")
    print(ray.get(nap.remote(0)))
    """
    with program(HERE + _dedent(text), address) as guest:
        guest.until("waiting")
        time.sleep(0.3)
        guest.interrupt()
        status, out, err = guest.end()
    assert (status, out) == (0, "interrupted\n0\n"), err


# ------------------------------------------------------------------------- how a guest goes


BUSY = """
import numpy as np

@ray.remote
def nap(seconds, x=None):
    time.sleep(seconds)

@ray.remote
def parent():
    ray.get(nap.remote(100))

@ray.remote
class Held:
    def __init__(self): self.child = nap.remote(100)
    def pid(self): return os.getpid()

held = Held.remote()
named = Held.options(name="named").remote()
alive = [ray.put(np.ones(1 << 17)), ray.put("small"), nap.remote(100), parent.remote()]
alive += [nap.remote(0, alive[2]), *[nap.remote(100) for _ in range(20)]]
ray.get([held.pid.remote(), named.pid.remote()])
print("busy", flush=True)
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "exit", "shutdown"])
def test_what_a_guest_made_ends_with_it(address: str, how: str) -> None:
    end = {"exit": "", "shutdown": "ray.shutdown(); time.sleep(100)"}.get(how, "time.sleep(100)")
    with program(HERE + BUSY + end, address) as guest:
        guest.until("busy")
        if how.startswith("SIG"):
            os.kill(guest.pid, getattr(signal, how))
        assert eventually(nothing_is_left), [rows("tasks"), rows("actors"), rows("objects"), rows("workers")]
        assert current().resources()[1]["CPU"] == 2.0
    assert host_still_works()


def test_what_another_guest_and_the_host_made_goes_on(address: str) -> None:
    @skate.remote
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def add(self) -> int:
            self.count += 1
            return self.count

    counter = Counter.options(name="counter").remote()
    text = """
    counter = ray.get_actor("counter", namespace="host")
    ref = ray.put("mine")
    for _ in range(20):
        ray.get(counter.add.remote())
    print("added", flush=True)
    sys.stdin.readline()
    print(ray.get(ref), ray.get(counter.add.remote()) > 0)
    """
    with (
        program(HERE + _dedent(text), address, stdin=-1) as first,
        program(HERE + _dedent(text), address, stdin=-1) as second,
    ):
        first.until("added")
        second.until("added")
        first.process.kill()
        out, err = second.process.communicate("go\n", timeout=60)
        assert out == "mine True\n", err
    assert skate.get(counter.add.remote(), timeout=60) == 42


def test_detached_actors_outlive_their_guest_and_what_they_make_does_too(address: str) -> None:
    text = """
    @ray.remote(num_cpus=0)
    class Keeper:
        def __init__(self): self.refs = []
        def keep(self, seconds):
            self.refs.append(later.remote(seconds))
            return os.getpid()
        def kept(self): return ray.get(self.refs)
        def crash(self): os._exit(3)

    @ray.remote
    def later(seconds):
        time.sleep(seconds)
        return "kept"

    keeper = Keeper.options(name="keeper", lifetime="detached", max_restarts=1).remote()
    print(ray.get(keeper.keep.remote(1)), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    with program(HERE + _dedent(text), address) as guest:
        guest.process.wait(90)
    keeper = skate.get_actor("keeper", namespace="guests")
    assert skate.get(keeper.kept.remote(), timeout=60) == ["kept"]
    keeper.crash.remote()

    def restarted() -> bool:
        try:
            return bool(skate.get(keeper.keep.remote(0), timeout=60))
        except skate.exceptions.ActorUnavailableError:
            return False

    assert eventually(restarted)  # in a worker that was started when its driver was gone
    skate.kill(keeper)
    assert eventually(nothing_is_left)  # also the idle workers of a driver that has gone


def test_call_sent_just_before_a_guest_goes_is_made(address: str) -> None:
    @skate.remote
    class Box:
        def __init__(self) -> None:
            self.value = ""

        def fill(self, value: str) -> None:
            self.value = value

        def see(self) -> str:
            return self.value

    box = Box.options(name="box").remote()
    assert skate.get(box.see.remote(), timeout=60) == ""
    output_of(HERE + 'ray.get_actor("box", namespace="host").fill.remote("full")', address)
    assert eventually(lambda: skate.get(box.see.remote(), timeout=60) == "full")


def test_arrays_stay_what_they_are_when_a_guest_has_left(address: str) -> None:
    text = """
    import numpy as np
    ref = ray.put(np.full(1 << 18, 7))
    array, part = ray.get(ref), ray.get(ref)[100:200]
    del ref
    ray.shutdown()
    print("left", flush=True)
    sys.stdin.readline()
    print(int(array.sum()) == 7 << 18, int(part.sum()), array.flags.writeable)
    """
    import numpy as np

    with program(HERE + _dedent(text), address, stdin=-1) as guest:
        guest.until("left")
        assert eventually(nothing_is_left)
        ours = [skate.put(np.full(1 << 18, i)) for i in range(4)]  # the same memory, used again
        out, err = guest.process.communicate("go\n", timeout=60)
        assert out == "True 700 False\n", err
        del ours


def test_guest_can_leave_and_come_again(address: str) -> None:
    text = """
    @ray.remote
    def one(): return 1

    kept = []
    for _ in range(3):
        ray.init(address=sys.argv[1])
        kept.append(one.remote())
        print(ray.get(kept[-1]), end=" ")
        ray.shutdown()
    ray.init(num_cpus=1)
    kept.append(one.remote())
    print(ray.get(kept[-1]))
    try:
        ray.get(kept[0])
    except ray.exceptions.RayError as error:
        print(type(error).__name__)
    """
    out = output_of(_dedent(text), address)
    assert out.splitlines()[0] == "1 1 1 1" and len(out.splitlines()) == 2
    assert eventually(nothing_is_left)


def test_end_of_the_session_ends_a_guests_wait(address: str) -> None:
    text = """
    @ray.remote
    def nap(): time.sleep(100)

    ref = nap.remote()
    print("waiting", flush=True)
    try:
        ray.get(ref)
    except ray.exceptions.RaySystemError as error:
        print("session has ended" in str(error))
    try:
        nap.remote()
    except ray.exceptions.RaySystemError as error:
        print("session has ended" in str(error))
    ray.shutdown()
    ray.init(num_cpus=1)
    print(ray.is_initialized())
    """
    with program(HERE + _dedent(text), address) as guest:
        guest.until("waiting")
        skate.shutdown()
        status, out, err = guest.end()
    assert (status, out) == (0, "True\nTrue\nTrue\n"), err


def test_fork_of_a_guest_has_no_session_and_keeps_none_open(address: str) -> None:
    text = """
    ref = ray.put(1)
    child = os.fork()
    if not child:
        try:
            ray.get(ref)
        except RuntimeError as error:
            print("was forked" in str(error), flush=True)
        time.sleep(100)
    ray.shutdown()
    time.sleep(100)  # and no word: it could come in the middle of the child's
    """
    with program(HERE + _dedent(text), address) as guest:
        guest.until("True")
        assert eventually(nothing_is_left)
        assert len(guest.family()) >= 2  # the fork is alive, and has the descriptors yet


# --------------------------------------------------------------------- who is not let in


def knock(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    with Address(address, SOCKET) as place:
        connection.connect(place)  # which waits while others are in front
    connection.settimeout(10)
    return connection


def hello(**changes: object) -> bytes:
    from skate import __version__

    fields = {"version": __version__, "python": python_version(), "namespace": "n", "environment": "", "path": []}
    return b"".join(framed([Attach(**{**fields, "folder": "/", "log": True, "entrypoint": "", **changes})]))


def answer(connection: socket.socket) -> bytes:
    """Everything that is said until the connection ends."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65_536):
            said += data
    connection.close()
    return said


NONSENSE = {
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "zeroes": bytes(4096),
    "endless frame": struct.pack("<I", 1 << 30) + bytes(2 << 20),
    "too large a frame": struct.pack("<I", 0xFFFFFFFF),
    "no messages": struct.pack("<I", 1) + b"\x90",
    "another message": b"".join(framed([Done(5, b"x")])),
    "two messages": hello() + hello(),
    "deep": struct.pack("<I", 100_000) + b"\x91" * 100_000,
    "another version": hello(version="0.0.1"),
    "another python": hello(python="2.7.18"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_at_the_door_is_refused_and_told(
    address: str, what: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if what in ("text", "no messages"):  # which might be the beginning of something
        monkeypatch.setattr(door, "PATIENCE", 0.5)
    for _ in range(3):
        guest = knock(address)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            guest.sendall(NONSENSE[what])
        if what == "zeroes":
            guest.shutdown(socket.SHUT_WR)
        answer(guest)
    refused = rows("refusals")
    assert len(refused) == 3 or what == "zeroes", refused
    assert all(row["pid"] == os.getpid() and row["what"] for row in refused)
    assert capfd.readouterr().err.count("told once") == min(1, len(refused))
    assert host_still_works()
    assert not [worker for worker in current().host.hub.workers.values() if isinstance(worker, door.Peer)]


def test_who_says_nothing_is_shown_out_in_time(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "PATIENCE", 0.2)
    silent = [knock(address) for _ in range(3)]
    slow = knock(address)
    slow.sendall(hello()[:7])
    assert all(b"within 0.2 seconds" in answer(connection) for connection in [*silent, slow])
    assert [row["kind"] for row in rows("refusals")] == ["slow"] * 4
    assert host_still_works()


def test_crowd_at_the_door_is_refused_and_others_get_in_afterwards(address: str) -> None:
    crowd = [knock(address) for _ in range(door.MOST_GUESTS + 10)]
    assert eventually(lambda: sum(row["kind"] == "crowd" for row in rows("refusals")) == 10)
    assert host_still_works()
    for connection in crowd:
        connection.close()
    assert output_of(HERE + "print(ray.get(ray.put(5)))", address) == "5\n"


def test_full_house_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_PEERS", 0)
    text = """
    try:
        ray.init(address=sys.argv[1])
    except ConnectionError as error:
        print(error)
    """
    assert "0 drivers are attached already" in output_of(_dedent(text), address)


def test_no_descriptors_left_is_survived(address: str) -> None:
    assert host_still_works()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    guests = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        for fd in fillers:
            os.close(fd)
        fillers = []
        while True:
            try:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for guest in guests:
            guest.connect(os.path.join(address, "door"))
        assert eventually(lambda: [row["kind"] for row in current().host.door.refusals] == ["resources"])
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for guest in guests:
        guest.close()
    time.sleep(door.PAUSE)
    assert output_of(HERE + "print(ray.get(ray.put(5)))", address) == "5\n"


def test_foreign_user_is_refused_and_told(address: str) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can have a process of another user")
    os.chmod(address, 0o755)
    os.chmod(os.path.join(address, "door"), 0o666)
    text = f"""
    import socket
    os.setuid(65534)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect({address!r} + "/door")
    try:
        connection.sendall({hello()!r})
    except BrokenPipeError:
        pass
    print(connection.recv(65536))
    """
    assert "runs as user 65534" in output_of(_dedent(text))
    assert [(row["kind"], row["uid"]) for row in rows("refusals")] == [("uid", 65534)]
    assert host_still_works()


def test_closed_folder_keeps_a_foreign_user_out(address: str) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can have a process of another user")
    text = f"""
    import socket
    os.setuid(65534)
    try:
        socket.socket(socket.AF_UNIX).connect({address!r} + "/door")
    except PermissionError:
        print("closed")
    """
    assert output_of(_dedent(text)) == "closed\n"


def test_session_of_a_foreign_user_is_not_joined(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can have a process of another user")
    folder = tmp_path / "trap"
    folder.mkdir()
    os.chmod(tmp_path, 0o755)
    os.chmod(folder, 0o777)
    trap = f"""
    import socket
    os.setuid(65534)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind({str(folder)!r} + "/door")
    os.chmod({str(folder)!r} + "/door", 0o666)
    listener.listen()
    print("set", flush=True)
    connection, _ = listener.accept()
    print(len(connection.recv(100)), flush=True)
    """
    for parent in [*tmp_path.parents][:3]:
        if parent != Path("/tmp") and str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    with program(_dedent(trap)) as foreign:
        foreign.until("set")
        with pytest.raises(ConnectionError, match="belongs to user 65534"):
            skate.init(address=str(folder))
        assert foreign.end()[1] == "0\n"  # it was told nothing


BAD_MANNERS = {
    "a result of a call it was not sent": "Done(7, b'x')",
    "a second hello": "messages.Hello(1)",
    "an object of another's name": "messages.Put(5, b'x')",
    "a block it was not granted": "messages.Put(engine.ids.take(), messages.Stored(engine.ids.following - 1, 0, 4096))",
    "an unknown function": "messages.Submit(messages.TaskSpec(engine.ids.take(), b'?', b'x'), TaskOptions())",
}


@pytest.mark.parametrize("what", BAD_MANNERS)
def test_guest_that_sends_nonsense_is_shut_out(address: str, what: str) -> None:
    text = f"""
    from skate.core.engine import current
    from skate.core.spec import TaskOptions
    from skate.engines.local import messages
    from skate.engines.local.messages import Done

    engine = current()
    with engine.lock:
        engine.line.out.append({BAD_MANNERS[what]})
        engine.line.flush()
    try:
        for _ in range(600):
            ray.get(ray.put(1))
            time.sleep(0.1)
    except ray.exceptions.RaySystemError:
        print("shut out")
    """
    assert output_of(HERE + BUSY + _dedent(text), address).splitlines()[-1] == "shut out"
    assert [row["kind"] for row in rows("refusals")] == ["expelled"]
    assert eventually(nothing_is_left)
    assert host_still_works()


# --------------------------------------------------------------------------- addresses


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for temporary files in which no session is but ours."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("SKATE_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("auto", "Could not find a running session.*skate start"),
        ("/nowhere/at/all", "There is no session at /nowhere/at/all"),
        ("unix:/nowhere", "There is no session at /nowhere"),
        ("127.0.0.1:6379", "no standing hub called '127.0.0.1:6379'"),
        ("ray://head:10001", "reached on its own machine"),
    ],
)
def test_address_with_nothing_there_is_an_error_at_once(elsewhere: Path, address: str, text: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=text):
        skate.init(address=address)
    assert time.monotonic() - begun < 10
    assert not skate.is_initialized()


def test_auto_finds_the_session_and_so_do_the_variables(elsewhere: Path) -> None:
    first = skate.init(num_cpus=1).address_info["session_dir"]
    text = """
    ray.init()
    print(ray.get_runtime_context().get_job_id(), end=" ")
    """
    by_hand = text.replace("ray.init()", 'ray.init(address="auto")')
    out = output_of(_dedent(by_hand))
    out += output_of(_dedent(text), env={"SKATE_ADDRESS": first})
    out += output_of(_dedent(text), env={"RAY_ADDRESS": "auto"})
    out += output_of(_dedent(text), env={"RAY_ADDRESS": f"unix:{first}/door"})
    out += output_of(_dedent(text).replace("init()", 'init(address="local")'), env={"RAY_ADDRESS": "auto"})
    assert out.split() == ["02000000", "03000000", "04000000", "05000000", "01000000"]


def test_path_longer_than_a_socket_address_works(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = elsewhere / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(deep))
    folder = skate.init(num_cpus=1).address_info["session_dir"]
    assert folder.startswith(str(deep))
    assert output_of(HERE + "print(ray.get(ray.put(5)))", folder) == "5\n"


def test_who_attaches_brings_no_resources(elsewhere: Path) -> None:
    with pytest.raises(ValueError, match="num_cpus, object_store_memory must not be given with an address"):
        skate.init(address="auto", num_cpus=2, object_store_memory=100_000_000)


def test_inline_attaches_to_nothing(elsewhere: Path) -> None:
    with pytest.raises(ConnectionError, match="'inline' lives in this program alone"):
        skate.init(address="auto", engine="inline")


def test_killed_guests_leave_no_process(address: str) -> None:
    with program(HERE + BUSY + "time.sleep(100)", address) as guest:
        guest.until("busy")
        before = len(os.listdir("/proc/self/fd"))
        os.kill(guest.pid, signal.SIGKILL)
        guest.process.wait(90)
        assert eventually(nothing_is_left)
        assert eventually(lambda: not marked(guest.mark))
        assert eventually(lambda: len(os.listdir("/proc/self/fd")) < before)


def _dedent(text: str) -> str:
    import textwrap

    return textwrap.dedent(text)
