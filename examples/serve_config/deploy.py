"""Deploys serve.yaml as `skate serve deploy` does, changes it, and shows that only what changed is updated."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import skate
from skate import serve
from skate.serve import admin
from skate.serve.config_file import read_file

HERE = Path(__file__).parent


def deploy(config: dict[str, Any]) -> None:
    """Have the configuration deployed, and wait until it is."""
    for name, (status, message) in admin.settled(admin.put(config)).items():
        assert status == "RUNNING", f"{name} is {status}: {message}"


def replicas(deployment: str) -> set[str]:
    """Names of the replicas that run."""
    rows = serve.status().applications["shop"].deployments[deployment].replicas
    return {row["replica_id"] for row in rows if row["state"] == "RUNNING"}


def main() -> None:
    """Deploy, change, deploy again."""
    skate.init(num_cpus=2)
    config = read_file(str(HERE / "serve.yaml")).model_dump(exclude_unset=True)
    app = config["applications"][0]
    app["runtime_env"] = {"working_dir": str(HERE)}  # where shop.py is; the command line does this by itself
    config["proxy_location"] = "Disabled"  # this program asks by handles, so that no port is needed
    deploy(config)
    shop = serve.get_app_handle("shop")
    print("100 costs", shop.remote(100).result(timeout_s=30))
    before = replicas("Shop") | replicas("Discount")

    changed = copy.deepcopy(config)
    changed["applications"][0]["deployments"][0]["user_config"]["percent"] = 50
    changed["applications"][0]["deployments"][1]["num_replicas"] = 3
    deploy(changed)
    print("100 costs", shop.remote(100).result(timeout_s=30), "with the new discount")
    after = replicas("Shop") | replicas("Discount")
    serve.shutdown()
    skate.shutdown()
    print(f"deploy: all {len(before & after)} replicas went on running, {len(after - before)} was added")


if __name__ == "__main__":
    main()
