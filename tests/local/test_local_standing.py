"""A standing hub outlives its drivers, keeps them apart, and goes as a whole when it is told to."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import textwrap
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from hubs import hub_in, rows
from programs import eventually, output_of, program

import skate
from skate import standing
from skate.core.engine import current
from skate.engines.local.standing import _BOOT as BOOT
from skate.engines.local.standing import _marked

JOIN = 'ray.init(address="auto", namespace="shared")\n'


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[standing.Hub]:
    """A hub with 2 CPUs."""
    with hub_in(tmp_path, monkeypatch) as started:
        yield started


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped by its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_hub_is_nobodys_child_and_has_no_driver(hub: standing.Hub) -> None:
    assert psutil.Process(hub.pid).ppid() != os.getpid()
    assert os.getsid(hub.pid) != os.getsid(0)
    assert stat.S_IMODE(os.stat(hub.folder).st_mode) == 0o700
    assert rows(hub, "jobs") == [] and standing.status()["pid"] == hub.pid


def test_detached_actor_outlives_its_driver(hub: standing.Hub) -> None:
    make = """
    @ray.remote
    class Counter:
        def __init__(self): self.value = 0
        def add(self): self.value += 1; return self.value

    kept = Counter.options(name="kept", lifetime="detached").remote()
    gone = Counter.options(name="gone").remote()
    print(ray.get([kept.add.remote(), gone.add.remote()]))
    """
    assert output_of(JOIN + textwrap.dedent(make)) == "[1, 1]\n"
    again = """
    kept = ray.get_actor("kept")
    print(ray.get(kept.add.remote()))
    try:
        ray.get_actor("gone")
    except ValueError:
        print("gone")
    """
    assert output_of(JOIN + textwrap.dedent(again)) == "2\ngone\n"


def test_namespaces_keep_drivers_apart(hub: standing.Hub) -> None:
    text = """
    ray.init(address="auto", namespace=sys.argv[1])

    @ray.remote
    class Named:
        def who(self): return sys.argv[1] if False else ray.get_runtime_context().namespace

    mine = Named.options(name="same").remote()
    print(ray.get(mine.who.remote()), ray.get(ray.get_actor("same").who.remote()), flush=True)
    sys.stdin.readline()
    """
    with program(text, "a", stdin=subprocess.PIPE) as a, program(text, "b", stdin=subprocess.PIPE) as b:
        a.until("a a")
        b.until("b b")
        names = {(row["namespace"], row["name"]) for row in rows(hub, "names")}
        assert names == {("a", "same"), ("b", "same")}
        for guest in (a, b):
            guest.process.stdin.write("\n")
            guest.process.stdin.flush()
            assert guest.end()[0] == 0


def test_killed_driver_takes_only_what_was_its_own(hub: standing.Hub) -> None:
    skate.init(address="auto", namespace="here")

    @skate.remote
    class Mine:
        def pid(self) -> int:
            return os.getpid()

    mine = Mine.remote()
    pid = skate.get(mine.pid.remote(), timeout=60)
    text = """
    @ray.remote
    class Theirs:
        def pid(self): return os.getpid()

    theirs = Theirs.remote()
    large = ray.put(b"x" * 1_000_000)
    print(ray.get(theirs.pid.remote()), flush=True)
    time.sleep(60)
    """
    with program(JOIN + textwrap.dedent(text)) as guest:
        other = int(guest.process.stdout.readline())
        os.kill(guest.pid, signal.SIGKILL)
        assert eventually(lambda: not alive(other))
    assert skate.get(mine.pid.remote(), timeout=60) == pid
    assert eventually(lambda: not [row for row in rows(hub, "objects") if row["object_size"] > 100_000])


def test_second_start_is_told_of_the_first_also_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def attempt(_: int) -> standing.Hub | standing.AlreadyRunning:
        try:
            return standing.start(num_cpus=1)
        except standing.AlreadyRunning as error:
            return error

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(attempt, range(3)))
    hubs = [each for each in found if isinstance(each, standing.Hub)]
    try:
        assert len(hubs) == 1 and str(hubs[0].pid) in str(next(each for each in found if each is not hubs[0]))
    finally:
        for hub in hubs:
            standing.stop(hub)
    assert standing.running() == []


def test_hubs_of_several_names(hub: standing.Hub) -> None:
    second = standing.start("second", num_cpus=1, resources={"disk": 3}, labels={"zone": "b"})
    try:
        assert {each.name for each in standing.running()} == {"", "second"}
        skate.init(address="second")
        assert skate.cluster_resources()["disk"] == 3 and skate.nodes()[0]["Labels"]["zone"] == "b"
        skate.shutdown()
    finally:
        standing.stop(second)
    assert standing.running() == [hub]
    with pytest.raises(ConnectionError, match="no standing hub called 'second'"):
        skate.init(address="second")


@pytest.mark.parametrize("name", ["a b", "a/b", "auto", "local", "unix:x"])
def test_wrong_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be called"):
        standing.start(name)


def test_stop_ends_everything_and_attached_drivers_are_told(hub: standing.Hub) -> None:
    skate.init(address="auto")

    @skate.remote
    def forever() -> None:
        import subprocess

        subprocess.run(["sleep", "1000"])

    ref = forever.remote()
    assert eventually(lambda: any(psutil.Process(pid).name() == "sleep" for pid in _marked(hub.folder)))
    standing.stop(hub, force=True)
    assert not alive(hub.pid) and not _marked(hub.folder) and not os.path.exists(hub.folder)
    with pytest.raises(skate.exceptions.RaySystemError, match="session has ended"):
        skate.get(ref, timeout=60)
    standing.stop(hub)  # harmless


def test_hub_that_does_not_react_is_ended_by_force_alone(hub: standing.Hub) -> None:
    os.kill(hub.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError, match="has not ended within"):
        standing.stop(hub, timeout=0.3)
    standing.stop(hub, force=True)
    assert not alive(hub.pid)


def test_killed_hub_leaves_no_process_and_its_folder_is_swept(hub: standing.Hub) -> None:
    skate.init(address="auto")
    skate.get(skate.remote(lambda: 1).remote(), timeout=60)
    os.kill(hub.pid, signal.SIGKILL)
    assert eventually(lambda: not _marked(hub.folder))
    assert standing.running() == [] and not os.path.exists(hub.folder)


def test_next_driver_gets_the_archive_as_it_is_by_then(hub: standing.Hub, tmp_path: Path) -> None:
    """A name that stands for other files than last time is another environment."""
    text = """
    ray.init(address="auto", runtime_env={"working_dir": sys.argv[1]})
    print(ray.get(ray.remote(lambda: open("word").read()).remote(), timeout=60))
    """
    archive = tmp_path / "app.zip"
    for word in ("first", "second"):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("word", word)
        assert output_of(text, str(archive)) == f"{word}\n"


def test_output_without_a_driver_goes_to_the_log(hub: standing.Hub) -> None:
    text = """
    @ray.remote
    class Talker:
        def say(self, word): print(word, flush=True)
        def later(self):
            import threading
            threading.Timer(0.5, lambda: print("afterwards", flush=True)).start()

    talker = Talker.options(lifetime="detached", name="talker").remote()
    ray.get([talker.say.remote("before"), talker.later.remote()])
    """
    assert "before" in output_of(JOIN + textwrap.dedent(text))
    log = Path(hub.folder, "hub.log")
    assert eventually(lambda: "afterwards" in log.read_text())
    assert "before" not in log.read_text()


def test_idle_hub_sleeps(hub: standing.Hub) -> None:
    assert output_of('ray.init(address="auto"); print(ray.get(ray.remote(lambda: 1).remote()))') == "1\n"
    process = psutil.Process(hub.pid)

    def sleeps() -> bool:
        before = process.num_ctx_switches().voluntary
        time.sleep(2)
        return process.num_ctx_switches().voluntary - before < 20

    time.sleep(0.5)
    assert eventually(sleeps)  # soon after the driver has gone


def test_hub_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(ValueError, match="at least 78643200"):
        standing.start(object_store_memory=1)
    monkeypatch.setattr("skate.engines.local.standing._BOOT", "import sys; sys.exit(3) # ")
    with pytest.raises(RuntimeError, match="did not start|ended while it started"):
        standing.start()
    with pytest.raises(RuntimeError, match="did not start|ended while it started"):
        skate.init(_hub="process")
    raising = "import skate.core.folder as f; f.os.mkdir = lambda *a: 1 / 0 if a[1:] == () else f.os.open('/no', 0); "
    monkeypatch.setattr("skate.engines.local.standing._BOOT", BOOT + raising)
    with pytest.raises(RuntimeError, match="FileNotFoundError: .*/no"):
        standing.start()
    assert standing.running() == [] and not list(tmp_path.iterdir())


def test_hub_whose_folder_is_deleted_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("SKATE_HUB_LOOKS_EVERY", "0.1")
    hub = standing.start(num_cpus=1)
    shutil.rmtree(hub.folder)
    assert eventually(lambda: not alive(hub.pid) and not _marked(hub.folder))


# ---------------------------------------------------------------------- a driver's own hub


def test_hub_in_a_process_of_its_own_ends_with_shutdown() -> None:
    context = skate.init(num_cpus=2, _hub="process", log_to_driver=False)
    (child,) = [child for child in psutil.Process().children() if child.cmdline()[1] == "-c"]
    assert context.address_info["address"] == "local" and current().state("jobs")[0]["job_id"] == "01000000"
    assert skate.get(skate.remote(lambda x: x + 1).remote(1), timeout=60) == 2
    folder = context.address_info["session_dir"]
    skate.shutdown()
    assert not alive(child.pid) and not os.path.exists(folder) and not _marked(folder)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_hub_in_a_process_of_its_own_ends_with_a_killed_driver(how: str) -> None:
    text = """
    ray.init(num_cpus=1, namespace="x")
    ray.get(ray.remote(lambda: 1).remote())
    print(ray.get_runtime_context().get_job_id(), flush=True)
    time.sleep(60)
    """
    with program(text, env={"SKATE_HUB": "process"}) as driver:
        driver.until("01000000")
        assert len(driver.family()) >= 4  # driver, hub, zygote, worker
        os.kill(driver.pid, getattr(signal, how))
        assert eventually(lambda: not driver.family())


def test_driver_that_holds_the_interpreter_does_not_hold_up_its_hub(tmp_path: Path) -> None:
    text = """
    import ctypes
    ray.init(num_cpus=1, _hub="process")
    path = sys.argv[1]

    @ray.remote
    def step(x):
        return x + 1

    ref = step.remote(0)
    for _ in range(20):
        ref = step.remote(ref)
    ray.wait([ray.remote(lambda: 1).remote()])
    @ray.remote
    def last(x):
        open(path, "w").close()
        return x

    ref = last.remote(step.remote(step.remote(ref)))
    time.sleep(0.01)
    # with the interpreter's lock held
    done = ctypes.PyDLL(None).system(f"for i in $(seq 600); do [ -e {path} ] && exit 0; sleep 0.1; done; exit 1".encode())
    print(ray.get(ref), done)
    """
    assert output_of(text, str(tmp_path / "done"), timeout=150) == "23 0\n"


def test_unknown_place_for_the_hub_is_refused() -> None:
    with pytest.raises(ValueError, match="'driver' or in a 'process'"):
        skate.init(_hub="elsewhere")
