"""Submitted jobs: they run, are watched, end as they are told to, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hubs import hub_in, rows
from programs import eventually

from skate import standing
from skate.engines.local.standing import _marked
from skate.engines.local.visit import Visit
from skate.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType

PROGRAM = """
import os, sys
import skate as ray

ray.init()
value = ray.remote(lambda: os.environ["FLAVOUR"])
print(ray.get(value.remote()), os.getcwd(), ray.get_runtime_context().get_job_id(), *sys.argv[1:])
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[standing.Hub]:
    """A hub with 2 CPUs."""
    (tmp_path / "hub").mkdir()
    with hub_in(tmp_path / "hub", monkeypatch) as started:
        yield started


@pytest.fixture
def client(hub: standing.Hub) -> JobSubmissionClient:
    """A client of that hub."""
    return JobSubmissionClient()


def end_of(client: JobSubmissionClient, name: str, patience: float = 60) -> JobDetails:
    assert eventually(lambda: client.get_job_status(name).is_terminal(), patience), client.get_job_info(name)
    return client.get_job_info(name)


def begun(client: JobSubmissionClient, name: str, line: str) -> None:
    """Wait until a job has written a line."""
    assert eventually(lambda: line in client.get_job_logs(name)), client.get_job_info(name)


def test_job_attaches_and_has_its_folder_and_variables(client: JobSubmissionClient, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    name = client.submit_job(
        entrypoint="python program.py 'a word'",
        runtime_env={"working_dir": str(folder), "env_vars": {"FLAVOUR": "sour"}},
        metadata={"owner": "me"},
    )
    info = end_of(client, name)
    assert (info.status, info.driver_exit_code) == (JobStatus.SUCCEEDED, 0), info.message
    assert client.get_job_logs(name) == f"sour {folder} {info.job_id} a word\n"
    assert info.type == "SUBMISSION" and info.metadata == {"owner": "me"} and info.driver_info is not None
    assert info.runtime_env == {"working_dir": str(folder), "env_vars": {"FLAVOUR": "sour"}}
    assert info.start_time <= info.end_time <= time.time() * 1000


def test_python_in_a_command_is_the_hubs(client: JobSubmissionClient) -> None:
    name = client.submit_job(entrypoint="python -c 'import skate, sys; print(sys.executable)'")
    assert end_of(client, name).status == "SUCCEEDED"


def test_failed_job_tells_its_code_and_the_end_of_its_log(client: JobSubmissionClient) -> None:
    name = client.submit_job(entrypoint="echo begin; echo trouble >&2; exit 3")
    info = end_of(client, name)
    assert (info.status, info.driver_exit_code, info.error_type) == ("FAILED", 3, "JOB_ENTRYPOINT_COMMAND_ERROR")
    assert "exit code 3" in info.message and info.message.endswith("begin\ntrouble\n")
    name = client.submit_job(entrypoint="kill -SEGV $$")
    assert "signal 11" in end_of(client, name).message


def test_names_are_taken_once_and_unknown_ones_are_errors(client: JobSubmissionClient) -> None:
    assert client.submit_job(entrypoint="true", submission_id="mine") == "mine"
    with pytest.raises(RuntimeError, match="'mine' exists already"):
        client.submit_job(entrypoint="true", submission_id="mine")
    for action in (client.get_job_status, client.get_job_info, client.get_job_logs, client.stop_job, client.delete_job):
        with pytest.raises(RuntimeError, match="no job 'other'"):
            action("other")
    end_of(client, "mine")
    assert not client.stop_job("mine")
    assert client.delete_job("mine")
    assert client.list_jobs() == []
    assert client.submit_job(entrypoint="true", job_id="mine") == "mine"
    end_of(client, "mine")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"entrypoint": ""}, ValueError),
        ({"entrypoint": 1}, TypeError),
        ({"entrypoint": "true", "submission_id": 1}, TypeError),
        ({"entrypoint": "true", "metadata": {"a": 1}}, TypeError),
        ({"entrypoint": "true", "metadata": "a"}, TypeError),
        ({"entrypoint": "true", "entrypoint_num_cpus": -1}, ValueError),
        ({"entrypoint": "true", "entrypoint_num_cpus": "1"}, TypeError),
        ({"entrypoint": "true", "entrypoint_resources": {"CPU": 1}}, ValueError),
        ({"entrypoint": "true", "runtime_env": {"working_dir": "/no/such/folder"}}, ValueError),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    client: JobSubmissionClient, wrong: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        client.submit_job(**wrong)
    assert client.list_jobs() == []


def test_stop_ends_the_whole_group_first_kindly(client: JobSubmissionClient, hub: standing.Hub) -> None:
    name = client.submit_job(entrypoint="trap 'echo bye; exit 0' TERM; sleep 100 & echo up; wait")
    begun(client, name, "up")
    with pytest.raises(RuntimeError, match="is RUNNING"):
        client.delete_job(name)
    assert client.stop_job(name)
    info = end_of(client, name)
    assert info.status == "STOPPED" and client.get_job_logs(name) == "up\nbye\n"
    assert eventually(lambda: not [pid for pid in _marked(hub.folder) if _name(pid) == "sleep"])


def test_stop_kills_what_ignores_it(client: JobSubmissionClient) -> None:
    name = client.submit_job(entrypoint="trap '' TERM; echo up; sleep 100")
    begun(client, name, "up")
    begin = time.monotonic()
    client.stop_job(name)
    assert end_of(client, name).status == "STOPPED"
    assert time.monotonic() - begin > 2.5


def test_what_a_job_leaves_behind_ends_with_it(client: JobSubmissionClient, hub: standing.Hub) -> None:
    name = client.submit_job(entrypoint="sleep 100 & echo done")
    assert end_of(client, name).status == "SUCCEEDED"
    assert eventually(lambda: not [pid for pid in _marked(hub.folder) if _name(pid) in ("sleep", "sh")])
    assert eventually(lambda: not [row for row in rows(hub, "actors") if row["state"] != "DEAD"])


def test_job_waits_for_its_resources_and_one_that_can_never_run_fails(client: JobSubmissionClient) -> None:
    first = client.submit_job(entrypoint="echo up; sleep 100", entrypoint_num_cpus=2)
    begun(client, first, "up")
    second = client.submit_job(entrypoint="echo second", entrypoint_num_cpus=1)
    third = client.submit_job(entrypoint="echo third", entrypoint_num_cpus=1)
    time.sleep(0.3)
    assert client.get_job_status(second) == "PENDING"
    assert client.stop_job(third) and end_of(client, third).status == "STOPPED"  # before it has begun
    client.stop_job(first)
    assert end_of(client, second).status == "SUCCEEDED"
    info = end_of(client, client.submit_job(entrypoint="true", entrypoint_resources={"unicorn": 1}))
    assert (info.status, info.error_type) == ("FAILED", "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE")
    assert "unicorn" in info.message


def test_supervisors_crash_is_told_and_takes_the_job_with_it(client: JobSubmissionClient, hub: standing.Hub) -> None:
    name = client.submit_job(entrypoint="echo up; sleep 100")
    begun(client, name, "up")
    (actor,) = [row for row in rows(hub, "actors") if row["class_name"] == "Supervisor"]
    os.kill(actor["pid"], signal.SIGKILL)
    info = end_of(client, name)
    assert (info.status, info.error_type) == ("FAILED", "JOB_SUPERVISOR_ACTOR_DIED") and "SIGKILL" in info.message
    assert eventually(lambda: not [pid for pid in _marked(hub.folder) if _name(pid) == "sleep"])


def test_killed_hub_takes_its_jobs_with_it(client: JobSubmissionClient, hub: standing.Hub) -> None:
    name = client.submit_job(entrypoint="echo up; sleep 100")
    begun(client, name, "up")
    os.kill(hub.pid, signal.SIGKILL)
    assert eventually(lambda: not _marked(hub.folder))
    with pytest.raises(ConnectionError):
        client.get_job_status(name)


def test_stopped_hub_gives_its_jobs_time_to_end(client: JobSubmissionClient, hub: standing.Hub, tmp_path: Path) -> None:
    farewell = tmp_path / "farewell"
    name = client.submit_job(
        entrypoint=f"trap 'sleep 0.3; echo bye > {farewell}; exit' TERM; echo up; sleep 100 & wait"
    )
    begun(client, name, "up")
    standing.stop(hub)
    assert farewell.read_text() == "bye\n"


def test_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKATE_JOB_LOG_LIMIT", "100000")
    with hub_in(tmp_path, monkeypatch):
        client = JobSubmissionClient()
        name = client.submit_job(entrypoint="python -c 'for i in range(100000): print(i)'; echo the end")
        assert end_of(client, name).status == "SUCCEEDED"
        text = client.get_job_logs(name)
        assert 100_000 < len(text) <= 200_000 and text.endswith("99999\nthe end\n")


def test_tail_gives_all_of_it_as_it_comes(client: JobSubmissionClient, tmp_path: Path) -> None:
    async def follow() -> str:
        text = ""
        async for piece in client.tail_job_logs(name):
            text += piece
            for line in text.splitlines():
                (tmp_path / f"seen-{line}").touch()
        return text

    waiting = f"while [ ! -e {tmp_path}/seen-$i ]; do sleep 0.05; done"
    name = client.submit_job(entrypoint=f"for i in 1 2 3; do echo $i; {waiting}; done")
    assert asyncio.run(follow()) == "1\n2\n3\n" and client.get_job_status(name) == "SUCCEEDED"


def test_all_kinds_of_jobs_are_listed(client: JobSubmissionClient, hub: standing.Hub) -> None:
    import skate

    skate.init(address=hub.address)
    name = client.submit_job(entrypoint="true")
    end_of(client, name)
    types = {(job.type, job.submission_id) for job in client.list_jobs()}
    assert types == {(JobType.DRIVER, None), (JobType.SUBMISSION, name)}


def test_addresses_of_servers_are_refused_with_what_to_use(hub: standing.Hub) -> None:
    with pytest.raises(ConnectionError, match=r'(?s)http://127\.0\.0\.1:8265.*Use "auto"'):
        JobSubmissionClient("http://127.0.0.1:8265")
    assert JobSubmissionClient(f"unix:{hub.folder}").get_address() == hub.address


def test_session_in_a_driver_takes_no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    import skate

    folder = skate.init(num_cpus=1).address_info["session_dir"]
    with pytest.raises(RuntimeError, match="skate start"):
        JobSubmissionClient(folder).submit_job(entrypoint="true")
    with Visit(folder) as visit, pytest.raises(ValueError, match="no table 'x'"):
        visit.ask("state", "x")
    assert JobSubmissionClient(folder).list_jobs()[0].type == "DRIVER"


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.NoSuchProcess:
        return ""
