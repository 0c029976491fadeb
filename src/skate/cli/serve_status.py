"""How `skate serve status` shows what there is."""

from __future__ import annotations

from collections import Counter
from typing import Any


def table_of(details: dict[str, Any], name: str | None) -> str:
    """For people: a table of the deployments, and what is wrong below it."""
    from skate.cli.table import table

    apps = {key: app for key, app in details["applications"].items() if name in (None, key)}
    if not apps:
        return "There are no applications."
    rows, notes = [], []
    for key, app in apps.items():
        rows.append((key, app["status"], app["route_prefix"] or "", "", "", "", ""))
        if app["message"]:
            notes.append(f"{key}: {app['message']}")
        for each, deployment in app["deployments"].items():
            states = Counter(replica["state"] for replica in deployment["replicas"])
            load = (deployment.get("autoscaling_detail") or {}).get("metrics") or {}
            shown = ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "none"
            wanted = f"{shown} of {deployment['target_num_replicas']}"
            requests = f"{load.get('ongoing_requests', '')} / {load.get('queued_requests', '')}"
            rows.append(("", "", "", each, deployment["status"], wanted, requests))
            if deployment["message"] and deployment["message"] not in app["message"]:
                notes.append(f"{key} / {each}: {deployment['message']}")
    head = ("application", "status", "route", "deployment", "status", "replicas", "ongoing / queued")
    return "\n\n".join([table(head, rows), *notes])


def yaml_of(details: dict[str, Any], name: str | None) -> str:
    """For programs: as `serve status` of Ray prints it."""
    from skate.serve.config_file import to_yaml

    apps = {
        key: {
            "status": app["status"],
            "message": app["message"],
            "last_deployed_time_s": app["last_deployed_time_s"],
            "deployments": {
                each: {
                    "status": deployment["status"],
                    "status_trigger": deployment["status_trigger"],
                    "replica_states": dict(Counter(replica["state"] for replica in deployment["replicas"])),
                    "message": deployment["message"],
                }
                for each, deployment in app["deployments"].items()
            },
        }
        for key, app in details["applications"].items()
    }
    if name is not None:
        return to_yaml(apps[name])
    proxies = {node: proxy["status"] for node, proxy in details["proxies"].items()}
    return to_yaml({"proxies": proxies, "applications": apps, "target_capacity": details["target_capacity"]})
