"""Environments with packages: built once, kept apart, and gone with their session."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import eventually
from wheels import pip, source, uv, wheel

import skate as ray
from skate.core import env_cache
from skate.core.engine import current


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of our own, and no other places that pip would look in."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("SKATE_ENV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Two versions of one package."""
    for version in ("1.0", "2.0"):
        wheel(tmp_path / "wheels", version=version)
    return tmp_path / "wheels"


@ray.remote
def look() -> tuple[str, str, str]:
    import tinypkg  # type: ignore[import-not-found]

    return tinypkg.VERSION, sys.executable, os.path.dirname(tinypkg.__file__)


def version_in(environment: dict[str, Any]) -> str:
    return ray.get(look.options(runtime_env=environment).remote(), timeout=150)[0]


def built(cache: Path) -> list[str]:
    return [entry.key for entry in env_cache.entries(str(cache))]


def builders() -> int:
    """Processes that make an environment now."""
    return len(current().host.environments.builds)  # type: ignore[attr-defined]


@pytest.mark.parametrize("tool", [pip, uv])
def test_two_versions_of_a_package_in_one_session(tool: Callable[..., Any], wheels: Path, session: None) -> None:
    one, two = (look.options(runtime_env=tool(wheels, f"tinypkg=={v}")).remote() for v in ("1.0", "2.0"))
    (first, python, place), (second, _, _) = ray.get([one, two], timeout=150)
    assert (first, second) == ("1.0", "2.0")
    assert python != sys.executable and place.startswith(os.path.dirname(os.path.dirname(python)))
    with pytest.raises(ModuleNotFoundError):
        ray.get(look.remote(), timeout=60)  # and the driver's own workers have none


def test_actors_and_what_tasks_start_have_the_environment_too(wheels: Path, session: None) -> None:
    @ray.remote(num_cpus=0)
    class Actor:
        def version(self) -> str:
            return str(ray.get(look.remote())[0])  # inherited

    actor = Actor.options(runtime_env=pip(wheels, "tinypkg==2.0")).remote()
    assert ray.get(actor.version.remote(), timeout=150) == "2.0"


def test_packages_win_over_the_driver_s_which_are_there_too(wheels: Path, tmp_path: Path, session: None) -> None:
    wheel(wheels, "hypothesis", "99.0")

    @ray.remote
    def versions() -> tuple[str, bool]:
        import hypothesis
        import pytest

        return hypothesis.VERSION, bool(pytest)  # type: ignore[attr-defined]

    environment = pip(wheels, "hypothesis==99.0")
    assert ray.get(versions.options(runtime_env=environment).remote(), timeout=150) == ("99.0", True)


def test_what_skate_itself_needs_stays_the_driver_s(wheels: Path, session: None) -> None:
    wheel(wheels, "msgspec", "99.0")
    wheel(wheels, "cloudpickle", "0.1")
    assert version_in(pip(wheels, "tinypkg==1.0", "msgspec==99.0", "cloudpickle==0.1")) == "1.0"


def test_the_second_session_finds_it_built(wheels: Path, cache: Path) -> None:
    environment = pip(wheels, "tinypkg==1.0")
    for _ in range(2):
        ray.init(num_cpus=1)
        assert version_in(environment) == "1.0"
        made = current().host.environments.made  # type: ignore[attr-defined]
        assert len(made) == 1
        ray.shutdown()
    counted = source(cache.parent, name="counted")
    for _ in range(2):
        ray.init(num_cpus=1)
        assert ray.get(imports("counted").options(runtime_env=pip(wheels, str(counted))).remote(), timeout=150)
        ray.shutdown()
    assert (cache.parent / "counter").read_text() == "built\n"
    assert len(built(cache)) == 2


def imports(name: str) -> Any:
    @ray.remote
    def task() -> bool:
        __import__(name)
        return True

    return task


def test_a_changed_source_is_another_environment(wheels: Path, cache: Path, session: None) -> None:
    place = source(cache.parent, name="changing")
    environment = pip(wheels, str(place))
    assert ray.get(imports("changing").options(runtime_env=environment).remote(), timeout=150)
    ray.shutdown()
    (place / "more.txt").write_text("changed")
    ray.init(num_cpus=1)
    assert ray.get(imports("changing").options(runtime_env=environment).remote(), timeout=150)
    assert len(built(cache)) == 2


def test_many_at_once_build_it_once(wheels: Path, cache: Path, session: None) -> None:
    environment = pip(wheels, str(source(cache.parent, "time.sleep(0.3)")))
    task = imports("slowpkg").options(runtime_env=environment)
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.extend(ray.get([task.remote() for _ in range(5)]))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert found == [True] * 10 and (cache.parent / "counter").read_text() == "built\n"


def test_a_broken_one_fails_with_the_tool_s_own_words(wheels: Path, cache: Path, session: None) -> None:
    @ray.remote
    class Actor:
        def work(self) -> int:
            return 1

    environment = pip(wheels, str(source(cache.parent, "raise RuntimeError('no flux capacitor')")))
    tasks = [look.options(runtime_env=environment).remote() for _ in range(3)]
    actor = Actor.options(runtime_env=environment, max_restarts=-1).remote()  # type: ignore[attr-defined]
    for ref in [*tasks, actor.work.remote()]:
        with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="no flux capacitor"):
            ray.get(ref, timeout=150)
    assert built(cache) == []
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match=r"tinypkg==3\.0"):
        version_in(pip(wheels, "tinypkg==3.0"))
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="tinypkg"):
        version_in(uv(wheels, "tinypkg==3.0"))
    assert version_in(pip(wheels, "tinypkg==2.0")) == "2.0", "others are not affected"


def test_a_check_of_the_packages_finds_what_is_missing(wheels: Path, session: None) -> None:
    wheel(wheels, "needy", requires=["absentpkg"])
    options = ["--no-index", "--no-deps", "--find-links", str(wheels)]
    asked = {"packages": ["needy"], "pip_install_options": options, "pip_check": True}
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="absentpkg"):
        version_in({"pip": asked})
    asked = {"packages": ["needy"], "uv_pip_install_options": [*options, "--no-cache"], "uv_check": True}
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="absentpkg"):
        version_in({"uv": asked})


def test_a_cancelled_wait_ends_at_once(wheels: Path, cache: Path, session: None) -> None:
    slow = pip(wheels, str(source(cache.parent, "time.sleep(60)")))
    ref = look.options(runtime_env=slow).remote()
    assert eventually(lambda: builders() == 1)
    assert version_in(pip(wheels, "tinypkg==1.0")) == "1.0", "others go on meanwhile"
    began = time.monotonic()
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
    assert time.monotonic() - began < 30


def test_shutdown_ends_a_build(wheels: Path, cache: Path) -> None:
    ray.init(num_cpus=1)
    look.options(runtime_env=pip(wheels, str(source(cache.parent, "time.sleep(60)")))).remote()
    assert eventually((cache.parent / "counter").exists)
    began = time.monotonic()
    ray.shutdown()  # and the leak check of every test finds what is left
    assert time.monotonic() - began < 30 and built(cache) == []


def test_the_time_for_a_build_is_bounded(wheels: Path, cache: Path, session: None) -> None:
    began = time.monotonic()
    version_in(pip(wheels, "tinypkg==1.0"))
    seconds = 2 + int(2 * (time.monotonic() - began))  # in which this machine comes to the slow part
    slow = pip(wheels, str(source(cache.parent, "time.sleep(150)")))
    ref = look.options(runtime_env={**slow, "config": {"setup_timeout_seconds": seconds}}).remote()
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match=rf"not ready after {seconds} s[\s\S]*pip install"):
        ray.get(ref, timeout=150)
    assert builders() == 0


def test_the_rest_of_a_build_is_never_used(wheels: Path, cache: Path) -> None:
    environment = pip(wheels, "tinypkg==1.0")
    ray.init(num_cpus=1)
    assert version_in(environment) == "1.0"
    ray.shutdown()
    (key,) = built(cache)
    (cache / key / env_cache.READY).unlink()
    (cache / key / "env" / "bin" / "python").unlink()
    ray.init(num_cpus=1)
    assert version_in(environment) == "1.0"


def test_the_job_s_packages_are_built_before_the_first_call(wheels: Path, cache: Path) -> None:
    ray.init(num_cpus=1, runtime_env=pip(wheels, "tinypkg==1.0"))
    assert eventually(lambda: len(built(cache)) == 1)
    assert ray.get(look.remote(), timeout=60)[0] == "1.0"
    assert version_in({"env_vars": {"A": "1"}}) == "1.0", "a task's own fields go over the job's, one by one"
    assert version_in(uv(wheels, "tinypkg==2.0")) == "2.0", "and its packages stand for the job's"


def test_an_environment_in_use_is_not_cleared(wheels: Path, cache: Path) -> None:
    ray.init(num_cpus=1)
    assert version_in(pip(wheels, "tinypkg==1.0")) == "1.0"
    assert [entry.in_use for entry in env_cache.entries(str(cache))] == [True]
    assert env_cache.clear(str(cache)) == [] and len(built(cache)) == 1
    ray.shutdown()
    assert len(env_cache.clear(str(cache))) == 1 and built(cache) == []


def test_the_cache_keeps_its_bound(wheels: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKATE_ENV_CACHE_LIMIT", "1")
    for version in ("1.0", "2.0"):
        ray.init(num_cpus=1)
        assert version_in(pip(wheels, f"tinypkg=={version}")) == version
        ray.shutdown()
    assert len(built(cache)) == 1, "the one that was used last"


def test_killed_zygote_of_an_environment_takes_only_its_workers(wheels: Path, session: None) -> None:
    environment = pip(wheels, "tinypkg==1.0")
    assert version_in(environment) == "1.0"
    (nursery,) = current().host.environments.nurseries.values()  # type: ignore[attr-defined]
    os.kill(nursery.pool.pid, 9)
    assert version_in(environment) == "1.0"
    assert ray.get(imports("json").remote(), timeout=60)


def test_a_worker_of_an_environment_is_like_others(wheels: Path, session: None) -> None:
    @ray.remote(num_cpus=0)
    class Actor:
        def crash(self) -> None:
            os._exit(3)

        def sleep(self) -> None:
            time.sleep(60)

    @ray.remote
    def sleep() -> None:
        time.sleep(60)

    environment = pip(wheels, "tinypkg==1.0")
    actor = Actor.options(runtime_env=environment).remote()
    with pytest.raises(ray.exceptions.ActorDiedError, match="exited with code 3"):
        ray.get(actor.crash.remote(), timeout=150)
    ref = sleep.options(runtime_env=environment).remote()
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(ref, timeout=0.5)
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
    other = Actor.options(runtime_env=environment).remote()
    ref = other.sleep.remote()
    ray.kill(other)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(ref, timeout=60)


def test_what_others_delete_at_once_is_given_up_in_the_end(
    wheels: Path, session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skate.engines.local.recipes.in_cache", lambda _: None)
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="made 3 times and is not in the cache"):
        version_in(pip(wheels, "tinypkg==1.0"))
