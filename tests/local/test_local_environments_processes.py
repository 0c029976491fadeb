"""Interpreters, files, hooks and containers of environments; and the driver's death while one is made."""

from __future__ import annotations

import os
import stat
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import eventually, marked, output_of, program
from wheels import pip, source, wheel

import skate as ray
from skate.core.engine import current
from skate.testing.replay import replay


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of our own, and no other places that pip would look in."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "CONDA"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SKATE_ENV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@ray.remote
def where() -> tuple[str, str, str]:
    return sys.executable, os.getcwd(), sys.path[0]


def run_in(environment: dict[str, Any], timeout: float = 60) -> tuple[str, str, str]:
    return ray.get(where.options(runtime_env=environment).remote(), timeout=timeout)


def tool(folder: Path, name: str, text: str) -> Path:
    """A program of that name, in sh."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# ------------------------------------------------------------------------ interpreters


def test_py_executable_is_what_workers_run(tmp_path: Path, session: None) -> None:
    base = os.path.realpath(sys.executable)
    assert run_in({"py_executable": base})[0] == base != sys.executable
    wrapper = tool(tmp_path, "wrapper", f'SKATE_WRAPPED=$1; export SKATE_WRAPPED; shift; exec {sys.executable} "$@"')

    @ray.remote(runtime_env={"py_executable": f"{wrapper} 'two words'"})
    def wrapped() -> str:
        return os.environ["SKATE_WRAPPED"]

    assert ray.get(wrapped.remote(), timeout=60) == "two words"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/no/such/python", "No such file"),
        ("false", "ended at once"),
        ("echo nonsense", "nonsense"),
        ("env SKATE=1 sh -c 'echo refused >&2; exit 3'", "refused"),
    ],
)
def test_what_is_no_python_says_so(text: str, problem: str, session: None) -> None:
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match=problem):
        run_in({"py_executable": text})
    assert ray.get(where.remote(), timeout=60)[0] == sys.executable


def test_another_version_of_python_is_refused(tmp_path: Path, session: None) -> None:
    code = "import sys; sys.version_info = (3, 8, 1); sys.argv = sys.argv[1:]; exec(open(sys.argv[0]).read())"
    old = tool(tmp_path, "old", f'exec {sys.executable} -c "{code}" "$@"')
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match=r"is Python 3\.8, and the driver runs"):
        run_in({"py_executable": str(old)})


def test_an_interpreter_that_never_comes_up_is_given_up(session: None) -> None:
    stuck = {"py_executable": "sh -c 'sleep 60'", "config": {"setup_timeout_seconds": 1}}
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="not ready after 1 s"):
        run_in(stuck)


def test_shutdown_ends_an_interpreter_that_never_comes_up() -> None:
    ray.init(num_cpus=1)
    where.options(runtime_env={"py_executable": "sh -c 'sleep 60'"}).remote()
    began = time.monotonic()
    ray.shutdown()
    assert time.monotonic() - began < 30


def test_idle_interpreters_end(session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skate.engines.local.environments.REST", 0.2)
    environment = {"py_executable": os.path.realpath(sys.executable)}
    assert run_in(environment)
    nurseries = current().host.environments  # type: ignore[attr-defined]
    assert len(nurseries.nurseries) == 1
    assert eventually(lambda: not nurseries.nurseries)
    assert run_in(environment), "and start again"


@pytest.fixture
def conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that does what conda would: it knows one environment, and makes others by venv."""
    known = tmp_path / "envs" / "known"
    make = f'{sys.executable} -m venv --without-pip "$p"'
    tool(
        tmp_path / "bin",
        "conda",
        f'if [ "$2" = list ]; then echo \'{{"envs": ["/root/base", "{known}"]}}\'; exit; fi\n'
        f'p="$4"; if grep -q unheard "$6"; then echo "PackagesNotFound: unheard"; exit 1; fi; {make}',
    )
    monkeypatch.setenv("PATH", str(tmp_path / "bin") + os.pathsep + os.environ["PATH"])
    os.system(f"p={known}; {make}")
    return known


def test_conda_environments(conda: Path, cache: Path, session: None) -> None:
    python = str(conda / "bin" / "python")
    assert run_in({"conda": "known"})[0] == run_in({"conda": str(conda)})[0] == python
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="no environment called 'other'; it knows"):
        run_in({"conda": "other"})
    assert run_in({"conda": {"dependencies": ["python", "pip"]}})[0].startswith(str(cache))
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="PackagesNotFound: unheard"):
        run_in({"conda": {"dependencies": ["unheard"]}})
    described = conda.parent / "environment.yml"
    described.write_text("dependencies: [python]\n")
    assert run_in({"conda": str(described)})[0].startswith(str(cache))


def test_without_conda_its_environments_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, session: None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="no conda, mamba or micromamba"):
        run_in({"conda": "known"})


# -------------------------------------------------------------------------- containers


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that is called as podman would be: it knows one image, and runs programs right here."""
    log = tmp_path / "podman.log"
    tool(
        tmp_path / "bin",
        "podman",
        f'echo "$@" >> {log}\n'
        'if [ "$1" = image ]; then [ "$3" = known ]; exit; fi\n'
        'if [ "$1" = pull ]; then echo "no such image: $2" >&2; exit 125; fi\n'
        'while [ "$1" != --entrypoint ]; do if [ "$1" = --env ]; then export "$2"; fi; shift; done\n'
        f'shift 3; cd /; exec 3>&- 4>&-; unset PYTHONPATH; exec {os.path.realpath(sys.executable)} -S "$@"',
    )
    monkeypatch.setenv("PATH", str(tmp_path / "bin") + os.pathsep + os.environ["PATH"])
    return log


@pytest.mark.parametrize("field", [{"image_uri": "known"}, {"container": {"image": "known", "run_options": ["-q"]}}])
def test_workers_of_an_image(field: dict[str, Any], podman: Path, session: None) -> None:
    @ray.remote(runtime_env={**field, "env_vars": {"INSIDE": "1"}})
    class Actor:
        def look(self) -> tuple[str, str]:
            import msgspec

            return os.environ["INSIDE"], msgspec.__file__

    actor = Actor.remote()
    inside, place = ray.get(actor.look.remote(), timeout=60)
    assert inside == "1" and place.startswith(current().host.settings.folder)  # type: ignore[attr-defined]
    words = podman.read_text()
    assert "--pid=host" in words and ("-q" in words) == ("container" in field)


def test_an_image_that_cannot_be_had(podman: Path, session: None) -> None:
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="no such image: other"):
        run_in({"image_uri": "other"})


def test_without_podman_or_docker_there_are_no_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ray.init(num_cpus=1)
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="needs podman or docker"):
        run_in({"image_uri": "known"})


# -------------------------------------------------------------------------------- files


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory of code, and archives of it."""
    code = tmp_path / "code"
    (code / "inner").mkdir(parents=True)
    (code / "data.txt").write_text("data")
    (code / "big.log").write_text("log")
    (code / "inner" / "keep.log").write_text("log")
    (code / "codepkg").mkdir()
    (code / "codepkg" / "__init__.py").write_text("VALUE = 7\n")
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as flat, zipfile.ZipFile(tmp_path / "top.zip", "w") as top:
        for path in sorted(code.rglob("*")):
            flat.write(path, path.relative_to(code))
            top.write(path, path.relative_to(tmp_path))
    with zipfile.ZipFile(tmp_path / "codepkg.zip", "w") as package:
        package.write(code / "codepkg" / "__init__.py", "codepkg/__init__.py")
    with tarfile.open(tmp_path / "flat.tar.gz", "w:gz") as packed:
        packed.add(code, ".")
    return tmp_path


@ray.remote
def listing() -> list[str]:
    return sorted(str(path) for path in Path(".").rglob("*") if path.is_file() and "__pycache__" not in path.parts)


@ray.remote
def value() -> int:
    import codepkg  # type: ignore[import-not-found]

    return int(codepkg.VALUE)


WHOLE = ["big.log", "codepkg/__init__.py", "data.txt", "inner/keep.log"]


@pytest.mark.parametrize("name", ["flat.zip", "top.zip", "flat.tar.gz"])
def test_working_dir_of_a_task_from_an_archive(name: str, files: Path, session: None) -> None:
    environment = {"working_dir": f"file://{files / name}"}
    assert ray.get(listing.options(runtime_env=environment).remote(), timeout=60) == WHOLE
    assert ray.get(value.options(runtime_env=environment).remote(), timeout=60) == 7


def test_working_dir_that_is_used_as_it_is(files: Path, session: None) -> None:
    assert run_in({"working_dir": f"local://{files / 'code'}"})[1] == str(files / "code")
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="no directory /no/such"):
        run_in({"working_dir": "local:///no/such"})


@pytest.mark.parametrize("uri", ["file:///no/such.zip", "file://{broken}", "http://127.0.0.1:9/x.zip"])
def test_archive_that_cannot_be_had(uri: str, files: Path, session: None) -> None:
    (files / "broken.zip").write_text("no archive")
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match=r"No such file|BadZipFile|refused"):
        run_in({"working_dir": uri.format(broken=files / "broken.zip")})


def test_modules_of_a_task(files: Path, session: None) -> None:
    wheel(files, "codepkg", "3.0")
    for module in ("top.zip", "codepkg.zip"):
        environment = {"py_modules": [f"file://{files / module}"]}
        assert ray.get(value.options(runtime_env=environment).remote(), timeout=60) == 7
    environment = {"py_modules": [f"local://{files / 'code'}"]}
    assert ray.get(value.options(runtime_env=environment).remote(), timeout=60) == 7

    @ray.remote(runtime_env={"py_modules": [f"file://{files}/codepkg-3.0-py3-none-any.whl"]})
    def version() -> str:
        import codepkg

        return str(codepkg.VERSION)

    assert ray.get(version.remote(), timeout=60) == "3.0"


@pytest.mark.parametrize("name", ["code", "flat.zip"])
def test_files_of_the_job_without_what_is_excluded(name: str, files: Path) -> None:
    excludes = ["*.log", "!keep.log"] if name == "code" else []
    ray.init(num_cpus=1, runtime_env={"working_dir": str(files / name), "excludes": excludes})
    expected = [path for path in WHOLE if path != "big.log"] if excludes else WHOLE
    assert ray.get(listing.remote(), timeout=60) == expected
    folder = Path(ray.get(where.remote())[1])
    assert folder != files / "code", "a copy of this session"
    ray.shutdown()
    assert not folder.exists() and (files / "code" / "big.log").exists()


def test_working_dir_of_a_task_stands_for_the_job_s(files: Path) -> None:
    ray.init(num_cpus=1, runtime_env={"working_dir": str(files)})
    _, folder, first = run_in({"working_dir": f"file://{files / 'flat.zip'}"})
    assert folder == first != str(files) and str(files) not in run_in({"env_vars": {"A": "1"}})[0]


def test_variables_are_filled_in(monkeypatch: pytest.MonkeyPatch, session: None) -> None:
    @ray.remote(runtime_env={"env_vars": {"PATH": "/first:${PATH}", "NONE": "x${SKATE_NO_SUCH}y"}})
    def seen() -> tuple[str, str]:
        return os.environ["PATH"], os.environ["NONE"]

    assert ray.get(seen.remote(), timeout=60) == (f"/first:{os.environ['PATH']}", "xy")


# -------------------------------------------------------------------------------- hooks


def test_setup_hook_runs_once_per_worker_before_its_first_call(tmp_path: Path) -> None:
    def hook() -> None:
        with open(tmp_path / "log", "a") as log:
            log.write(f"{os.getpid()}\n")

    @ray.remote
    def task(_: int) -> int:
        assert str(os.getpid()) in (tmp_path / "log").read_text()
        return os.getpid()

    ray.init(num_cpus=2, runtime_env={"worker_process_setup_hook": hook})
    used = set(ray.get([task.remote(i) for i in range(50)], timeout=60))
    ran = (tmp_path / "log").read_text().split()
    assert len(ran) == len(set(ran)) and used <= {int(pid) for pid in ran}


def test_setup_hook_by_its_name_and_for_a_task(files: Path, session: None) -> None:
    (files / "code" / "hooks.py").write_text("import os\ndef mark(): os.environ['HOOKED'] = '1'\n")

    @ray.remote
    def hooked() -> str | None:
        return os.environ.get("HOOKED")

    environment = {"worker_process_setup_hook": "hooks.mark", "working_dir": f"local://{files / 'code'}"}
    assert ray.get([hooked.options(runtime_env=environment).remote(), hooked.remote()], timeout=60) == ["1", None]


@pytest.mark.parametrize("way", ["raises", "exits", "is missing"])
def test_setup_hook_that_fails(way: str, session: None) -> None:
    def raises() -> None:
        raise ValueError("no luck")

    def exits() -> None:
        sys.exit("no luck")

    @ray.remote
    class Actor:
        def work(self) -> int:
            return 1

    hook: Any = {"raises": raises, "exits": exits, "is missing": "luck.none"}[way]
    environment = {"worker_process_setup_hook": hook}
    actor = Actor.options(runtime_env=environment, max_restarts=3).remote()  # type: ignore[attr-defined]
    for ref in [actor.work.remote(), *(where.options(runtime_env=environment).remote() for _ in range(5))]:
        with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="luck"):
            ray.get(ref, timeout=60)
    assert ray.get(where.remote(), timeout=60)


# -------------------------------------------------------------------------------- deaths

DRIVER = """
import sys, time
import skate as ray
sys.path.insert(0, {helpers!r})
from pathlib import Path
from wheels import pip
ray.init(num_cpus=1)
@ray.remote
def work():
    print("working", flush=True)
    time.sleep(60)
ref = work.options(runtime_env={environment!r}).remote()
print("up", flush=True)
ray.get(ref)
"""


def environments(tmp_path: Path) -> dict[str, tuple[dict[str, Any], Callable[[], bool]]]:
    counter = tmp_path / "counter"
    building = pip(tmp_path, str(source(tmp_path, "time.sleep(60)")))
    return {
        "building": (building, counter.exists),
        "running": ({"py_executable": os.path.realpath(sys.executable)}, lambda: False),
        "starting": ({"py_executable": "sh -c 'sleep 60'"}, lambda: False),
    }


@pytest.mark.parametrize("state", ["building", "running", "starting"])
def test_killed_driver_takes_all_with_it(state: str, tmp_path: Path) -> None:
    environment, seen = environments(tmp_path)[state]
    helpers = str(Path(__file__).parent)
    with program(DRIVER.format(helpers=helpers, environment=environment)) as driver:
        driver.until("up")
        eventually(seen, 1 if state != "building" else 60)
        os.kill(driver.pid, 9)
        driver.process.wait(90)
        assert eventually(lambda: not marked(driver.mark)), marked(driver.mark)


# -------------------------------------------------------------------------- several drivers


def test_environments_of_an_attached_driver(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "guestpkg", "4.0")
    (tmp_path / "place").mkdir()
    session = ray.init(engine="local", num_cpus=2, log_to_driver=False).address_info["session_dir"]
    text = """
    import os
    environment, place = eval(sys.argv[2]), sys.argv[3]
    ray.init(address=sys.argv[1], runtime_env={"working_dir": place, "env_vars": {"GUEST": "1"}})

    @ray.remote
    def here():
        return os.getcwd(), os.environ["GUEST"]

    @ray.remote
    def version():
        import guestpkg
        return guestpkg.VERSION, os.getcwd(), os.environ["GUEST"]

    print(ray.get(here.remote()) == (place, "1"))
    print(ray.get(version.options(runtime_env=environment).remote()) == ("4.0", place, "1"))
    """
    place = str(tmp_path / "place")
    said = output_of(text, session, repr(pip(tmp_path / "wheels", "guestpkg")), place, timeout=150)
    assert said.split() == ["True", "True"]
    assert run_in({"env_vars": {"A": "1"}})[1] == os.getcwd(), "and the session's own driver has none of it"
    grounds = current().host.environments.grounds  # type: ignore[attr-defined]
    assert eventually(lambda: not any("_job" in text for text in grounds)), "nothing is kept of who has gone"


# ---------------------------------------------------------------------------------- nonsense

NONSENSE = [
    *(
        "nonsense",
        "[1]",
        "{",
        "[" * 5000,
        '{"pip": 5}',
        '{"pip": {"packages": [5]}}',
        '{"uv": {"a": 1}}',
        '{"conda": 5}',
    ),
    *('{"container": 5}', '{"py_executable": ["a"]}', '{"working_dir": 5}', '{"py_modules": 5}', '{"py_modules": [5]}'),
    '{"config": 5, "pip": {"packages": ["a"]}}',
    '{"config": {"setup_timeout_seconds": "x"}, "py_executable": "python"}',
]


def test_an_environment_that_nobody_has_checked_harms_nothing(monkeypatch: pytest.MonkeyPatch, session: None) -> None:
    def double(x: int) -> int:
        return 2 * x

    for text in NONSENSE:  # as one of another program may be, which the hub is sent
        monkeypatch.setattr("skate.remote_function.pack_environment", lambda _, text=text, job=False: text)
        with pytest.raises(ray.exceptions.RuntimeEnvSetupError):
            ray.get(ray.remote(double).remote(1), timeout=60)
    monkeypatch.undo()
    assert ray.get(ray.remote(double).remote(1), timeout=60) == 2


def test_a_trace_with_environments_can_be_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ValueError("no luck")

    monkeypatch.setenv("SKATE_TRACE", str(tmp_path / "trace"))
    ray.init(num_cpus=2)
    for environment in ({"worker_process_setup_hook": fails}, {"py_executable": "false"}, {"image_uri": "none"}):
        for _ in range(2):
            with pytest.raises(ray.exceptions.RuntimeEnvSetupError):
                run_in(environment)
    assert run_in({"py_executable": os.path.realpath(sys.executable)})
    ray.shutdown()
    assert replay(tmp_path / "trace").events > 10
