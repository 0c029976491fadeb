"""Structured logs: what `init(logging_config=...)` does to log records of the driver and of workers."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest

import skate

PROGRAM = """
import logging, sys, time
import skate

skate.init(num_cpus=1, logging_config=skate.LoggingConfig(sys.argv[1], "INFO", ["name"]))

@skate.remote
def work():
    logging.getLogger("mine").info("in a task", extra={"shard": 3})
    logging.debug("not asked for")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.exception("broken")
    return skate.get_runtime_context().runtime_env

@skate.remote
class Actor:
    def work(self):
        logging.warning("in an actor")

logging.info("in the driver")
assert skate.get(work.remote()) == {}, "the configuration shows in the runtime environment"
actor = Actor.options(name="clerk").remote()
skate.get(actor.work.remote())
time.sleep(0.3)  # what workers print arrives when it arrives
skate.shutdown()
"""


def lines(engine: str, encoding: str, **settings: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, encoding],
        capture_output=True, text=True, timeout=150, env={**os.environ, "SKATE_ENGINE": engine, **settings},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_json_records_tell_where_they_were_written(engine: str) -> None:
    found: dict[str, dict[str, Any]] = {}
    for line in lines(engine, "JSON"):
        record = json.loads(line)
        found[record["message"]] = record
    assert list(found) == ["in the driver", "in a task", "broken", "in an actor"]
    driver, task, broken, actor = found.values()
    for record in found.values():
        assert {"asctime", "levelname", "filename", "lineno", "process", "job_id", "worker_id", "node_id"} < set(record)
        assert record["timestamp_ns"] > 1.7e18 and record["name"] in ("root", "mine")
        assert record["job_id"] == "01000000" and len(record["node_id"]) == len(record["worker_id"]) == 56
    assert "task_id" not in driver and "actor_id" not in task
    assert task["shard"] == 3 and task["task_name"] == "work" and task["task_func_name"].endswith("work")
    assert "ZeroDivisionError" in broken["exc_text"]
    assert actor["actor_name"] == "clerk" and actor["task_name"] == "Actor.work" and actor["levelname"] == "WARNING"
    assert len(actor["actor_id"]) == 32 and len(actor["task_id"]) == 48


def test_text_records_are_lines_with_the_same_facts() -> None:
    found = lines("local", "TEXT")
    assert "INFO <string>:22 -- in the driver name=root job_id=01000000" in found[0]
    assert any("in a task name=mine shard=3 job_id=" in line and " task_name=work " in line for line in found)
    assert not any("pid=" in line for line in found), "records have no origin before them: they tell it themselves"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"encoding": "XML"}, "valid are TEXT, JSON"),
        ({"log_level": "LOUD"}, "valid are CRITICAL"),
        ({"additional_log_standard_attrs": ["colour"]}, "log records have no colour"),
    ],
)
def test_a_wrong_configuration_is_refused_where_it_is_written(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        skate.LoggingConfig(**given)


def test_something_else_is_refused_by_init() -> None:
    with pytest.raises(TypeError, match="must be a LoggingConfig"):
        skate.init(logging_config="JSON", engine="inline")
    assert not skate.is_initialized()


def test_the_configuration_of_one_that_ray_made_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from skate.core.environment import logs_of, with_logs
    from skate.core.logging_config import packed

    config = skate.LoggingConfig("JSON", logging.WARNING)
    text = with_logs('{"env_vars":{"A":"1"}}', packed(config))
    assert json.loads(logs_of(text)) == {
        "encoding": "JSON", "log_level": logging.WARNING, "additional_log_standard_attrs": [],
    }  # fmt: skip
    assert logs_of("") == logs_of('{"env_vars":{"_logs":"x"}}') == ""
