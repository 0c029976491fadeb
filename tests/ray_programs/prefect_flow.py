"""A Prefect flow whose tasks run on Ray (prefect-ray)."""

import os
import tempfile

os.environ["PREFECT_HOME"] = tempfile.mkdtemp()
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"

from prefect import flow, task
from prefect_ray import RayTaskRunner


@task
def count(word: str) -> int:
    return len(word)


@task
def add(counts: list) -> int:
    return sum(counts)


@flow(task_runner=RayTaskRunner(init_kwargs={"num_cpus": 2}))
def lengths(words: list) -> int:
    return add.submit([count.submit(word) for word in words]).result()


print("result:", lengths(["one", "two", "three", "four"]))
