"""Private names of Ray that popular libraries use are there, and say the truth."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

PROGRAM = """
import ray
import ray.cloudpickle, ray.types
from ray._private.worker import BaseContext
from ray.actor import ActorClass, ActorHandle
from ray.autoscaler.sdk import request_resources
from ray.job_config import JobConfig
from ray.train._internal.session import get_session
from ray.util.annotations import DeveloperAPI, PublicAPI

assert get_session() is None
worker = ray._private.worker.global_worker
assert (worker.mode, worker.connected, worker.actor_id.is_nil()) == (None, False, True)

context = ray.init(num_cpus=2, resources={"pen": 1}, job_config=JobConfig(ray_namespace="here"))
assert isinstance(context, BaseContext)
assert (worker.mode, worker.connected, worker.namespace) == (ray.SCRIPT_MODE, True, "here")
assert worker.current_node_id.hex() == ray.get_runtime_context().get_node_id()
assert worker.worker_id.hex() == ray.get_runtime_context().get_worker_id()
assert ray.get_runtime_context().worker is worker


@ray.remote(resources={"pen": 1})
class Clerk:
    def look(self):
        worker = ray._private.worker.global_worker
        return worker.mode, worker.actor_id.hex(), worker.actor_name, worker.current_task_id.is_nil()


plain = Clerk.__ray_actor_class__
assert type(Clerk).__name__ == "ActorClass(Clerk)" and isinstance(Clerk, ActorClass) and plain.__name__ == "Clerk"
clerk = Clerk.options(name="clerk").remote()
assert isinstance(clerk, ActorHandle)
assert ray.get(clerk.look.remote()) == (ray.WORKER_MODE, clerk._actor_id.hex(), "clerk", False)

state = ray._private.state
(row,) = state.actors().values()
assert row == state.actors(clerk._actor_id.hex())
assert (row["ActorClassName"], row["Name"], row["State"], row["NumRestarts"]) == ("Clerk", "clerk", "ALIVE", 0)
assert state.actors(actor_state_name="DEAD") == {} == state.actors("00" * 16)
(node,) = state.total_resources_per_node()
assert state.total_resources_per_node()[node]["pen"] == 1
assert state.available_resources_per_node()[node].get("pen", 0) == 0
assert state.node_ids() == [state.current_node_id()]
assert state.state.actor_table(None) == state.actors() and ray.state.actors is state.actors

assert ray._private.services.get_node_ip_address() == ray.util.get_node_ip_address()
assert ray._raylet.ObjectRef is ray.ObjectRef is ray.ObjectID is ray.types.ObjectRef
assert issubclass(ray.NodeID, ray.UniqueID) and ray.Language.PYTHON == 0
assert ray.internal.free([ray.put(1)]) is None
assert request_resources(num_cpus=1) is None
assert ray.util.client.ray.is_connected() is False
assert ray.cloudpickle.loads(ray.cloudpickle.dumps(lambda: 3))() == 3
assert ray.logger.name == "ray"
assert ray._private.runtime_env.constants.RAY_JOB_CONFIG_JSON_ENV_VAR
assert PublicAPI(stability="beta")(plain) is plain is DeveloperAPI(plain)
assert ray.worker.global_worker is worker
ray._private.worker.blocking_get_inside_async_warned = True
for wrong in (lambda: ray.internal.free([5]), lambda: request_resources(num_cpus="two"), lambda: JobConfig(nothing=1)):
    try:
        wrong()
    except TypeError:
        continue
    raise AssertionError("a wrong argument was taken")
ray.shutdown()
assert worker.mode is None
print("all there")
"""


def test_names_that_libraries_use(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    command = [sys.executable, "-m", "skate", "run", str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert (done.returncode, done.stdout) == (0, "all there\n"), done.stderr


NODES = """
import ray
from ray._private import state
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1}, connect=True)
second = cluster.add_node(num_cpus=3, resources={"pen": 2})


@ray.remote(num_cpus=1, resources={"pen": 1})
class Clerk:
    pass


clerk = Clerk.remote()
ray.get(clerk.__ray_ready__.remote())
free, total = state.available_resources_per_node(), state.total_resources_per_node()
assert free.keys() == total.keys() == {row["NodeID"] for row in ray.nodes()}
with_pens = next(node for node, row in total.items() if "pen" in row)
print(total[with_pens]["pen"], free[with_pens]["pen"], free[with_pens]["CPU"], len(set(state.node_ids())))
ray.shutdown()
cluster.shutdown()
"""


def test_resources_of_each_node(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(NODES)
    command = [sys.executable, "-m", "skate", "run", str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert (done.returncode, done.stdout) == (0, "2.0 1.0 2.0 2\n"), done.stderr
