"""Structured logs and the session's name on real Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")

PROGRAM = """
import logging, time
import skate

skate.init(num_cpus=1, include_dashboard=False, logging_config=skate.LoggingConfig("JSON", "INFO", ["name"]))
logging.getLogger("mine").info("in the driver")

@skate.remote
def work():
    logging.getLogger("mine").info("in a task", extra={"shard": 3})
    here = skate.get_runtime_context()
    return here.get_session_name(), here.get_temp_dir()

here = skate.get_runtime_context()
assert skate.get(work.remote()) == (here.get_session_name(), here.get_temp_dir())
print(here.get_session_name(), here.get_temp_dir())
time.sleep(2)  # what workers write comes through a process of Ray's
skate.shutdown()
"""


def test_json_records_and_the_session_s_name():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, timeout=50,
        env={**os.environ, "SKATE_ENGINE": "ray", "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name, place = done.stdout.splitlines()[0].split()
    assert name.startswith("session_") and place.endswith("/ray")
    written = done.stderr.splitlines() + done.stdout.splitlines()
    records = [json.loads(line) for line in written if line.startswith("{")]
    found = {record["message"]: record for record in records if record.get("name") == "mine"}
    assert set(found) == {"in the driver", "in a task"}
    assert found["in a task"]["shard"] == 3 and found["in a task"]["task_name"] == "work"
    assert found["in a task"]["job_id"] == found["in the driver"]["job_id"]
    assert "task_id" in found["in a task"] and "task_id" not in found["in the driver"]
