"""What replicas log, and how it is asked for."""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skate import serve
from skate.serve import admin, context, logs
from skate.serve.schema import LoggingConfig


@serve.deployment
class Talker:
    async def __call__(self) -> str:
        logging.getLogger("ray.serve").info("said %d", 3, extra={"mood": "good"})
        logging.getLogger("skate.serve").debug("not shown at INFO")
        return "done"

    async def fail(self) -> None:
        logging.getLogger("ray.serve").exception("it failed", exc_info=ValueError("reason"))
        raise ValueError


def written(folder: Path) -> list[dict[str, Any]]:
    """All records in the files of a directory."""
    return [json.loads(line) for path in folder.glob("*.log") for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("clean")
def test_json_says_which_request_and_replica_a_record_is_of(tmp_path: Path, eventually: Callable[..., None]) -> None:
    config = LoggingConfig(encoding="JSON", logs_dir=str(tmp_path), additional_log_standard_attrs=["name"])
    handle = serve.run(Talker.bind(), name="app", route_prefix=None, logging_config=config)
    response = handle.remote()
    assert response.result(timeout_s=60) == "done"
    eventually(lambda: len(written(tmp_path)) == 2)
    said, access = written(tmp_path)
    assert said["message"] == "said 3" and said["mood"] == "good" and said["levelname"] == "INFO"
    assert (said["application"], said["deployment"], said["name"]) == ("app", "Talker", "ray.serve")
    assert said["request_id"] == access["request_id"] == response.request_id
    assert access["message"].startswith("CALL __call__ OK") and access["serve_access_log"] is True
    (path,) = tmp_path.glob("*.log")
    assert path.name == f"replica_app_Talker_{said['replica']}.log"
    with pytest.raises(ValueError):
        handle.fail.remote().result(timeout_s=60)
    eventually(lambda: "ValueError: reason" in str(written(tmp_path)))


@pytest.mark.usefixtures("clean")
def test_requests_by_http_are_logged_with_their_ids(tmp_path: Path, eventually: Callable[..., None]) -> None:
    config = {"encoding": "JSON", "logs_dir": str(tmp_path)}
    serve.start(http_options={"port": 0})
    serve.run(Talker.options(logging_config=config).bind(), route_prefix="/talk")
    url = admin.url("default")
    assert url is not None
    with urllib.request.urlopen(urllib.request.Request(url, headers={"x-request-id": "mine"}), timeout=60) as answer:
        assert answer.status == 200
    eventually(lambda: len(written(tmp_path)) == 2)
    said, access = written(tmp_path)
    assert said["request_id"] == access["request_id"] == "mine"
    assert access["message"].startswith("GET /talk 200") and access["route"] == "/talk"


@pytest.mark.usefixtures("clean")
def test_a_change_reaches_the_replicas_that_run(tmp_path: Path, eventually: Callable[..., None]) -> None:
    quiet = {"encoding": "JSON", "logs_dir": str(tmp_path), "log_level": "ERROR"}
    talker = Talker.options(version="1")
    handle = serve.run(talker.options(logging_config=quiet).bind(), route_prefix=None)
    handle.remote().result(timeout_s=60)
    assert not written(tmp_path)
    loud = {**quiet, "log_level": "DEBUG", "enable_access_log": False}
    serve.run(talker.options(logging_config=loud).bind(), route_prefix=None)
    handle.remote().result(timeout_s=60)
    eventually(lambda: [row["message"] for row in written(tmp_path)] == ["said 3", "not shown at INFO"])


def test_a_process_that_is_not_the_replicas_alone_keeps_its_loggers() -> None:
    before = {name: list(logging.getLogger(name).handlers) for name in logs.LOGGERS}
    assert logs.set_up(None, ("Model", "abc", "app"), shares=True) is False
    assert {name: logging.getLogger(name).handlers for name in logs.LOGGERS} == before


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.makeLogRecord({"msg": "text", "levelname": "INFO"})
    token = context.request_context.set(context.RequestContext("request", "/route", "app"))
    try:
        assert logs.Surroundings().filter(record)
    finally:
        context.request_context.reset(token)
    record.deployment, record.replica, record.application = "Model", "abc", "app"
    assert logs.Lines().format(record).endswith(" app_Model abc request -- text")


@pytest.mark.parametrize("wrong", [{"encoding": "XML"}, {"level": "INFO"}, {"log_level": "LOUD"}, 3])
def test_wrong_configurations_are_refused_where_they_are_written(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="logging_config"):
        Talker.options(logging_config=wrong)
