"""Serve: deployments, composed into applications, as in Ray Serve.

What is where:

* `settings`, `scaling_config`, `deployment_parts`: the classes of options that have fields of their own;
* `api`: the verbs (`run`, `start`, `delete`, `status`, ...); `deployments`: ``@serve.deployment``, ``bind`` and
  ``options``; `config`: the options and their checks; `build`: from a bound application to an `specs.AppSpec`;
* `state`, `target`, `autoscaling`: what is to be done, decided purely; `tending`, `placing`, `deployment_actors`:
  having it done; `telling`: what is told of it; `controller`: the actor that does all of that; `vault`: what it must
  not forget; `topics`: what it tells routers, by a call that stays open;
* `handle`, `request`, `responses`: handles, their requests, the answers; `router`: a caller's choice of replicas, its
  queue, what is tried again; `listener` and `told`: what it hears; `routing`, `request_router`, `experimental`: routers
  of the program's own; `fanout`: requests to all replicas, or to a chosen one; `board`: the page of shared memory with
  the replicas' ongoing requests;
* `batching` with `batcher`, `multiplex`: ``@serve.batch``, ``@serve.multiplexed``; `holders`: which replica gets a
  request for a model; `metrics`: metrics of applications, and those of serve itself, which `measures` counts; `logs`;
* `config_file`, `fields`: what configurations may say; `importing`: building what they name; `declared`: the
  controller's part for them; `admin`, `rest`: putting and looking, from the command line and over REST;
* `replica`: the actor that runs requests; `context`: what this process and this request are; `schema`: statuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skate.serve import config as config
    from skate.serve import exceptions as exceptions
    from skate.serve import handle as handle
    from skate.serve import metrics as metrics
    from skate.serve import schema as schema
    from skate.serve.api import RunTarget as RunTarget
    from skate.serve.api import delete as delete
    from skate.serve.api import get_app_handle as get_app_handle
    from skate.serve.api import get_deployment_handle as get_deployment_handle
    from skate.serve.api import get_multiplexed_model_id as get_multiplexed_model_id
    from skate.serve.api import get_replica_context as get_replica_context
    from skate.serve.api import run as run
    from skate.serve.api import run_many as run_many
    from skate.serve.api import shutdown as shutdown
    from skate.serve.api import shutdown_async as shutdown_async
    from skate.serve.api import start as start
    from skate.serve.api import status as status
    from skate.serve.asgi import get_asgi_app as get_asgi_app
    from skate.serve.asgi import get_http_address as get_http_address
    from skate.serve.batching import batch as batch
    from skate.serve.config import ControllerOptions as ControllerOptions
    from skate.serve.config import HTTPOptions as HTTPOptions
    from skate.serve.deployment_actors import get_deployment_actor as get_deployment_actor
    from skate.serve.deployment_actors import get_deployment_actor_context as get_deployment_actor_context
    from skate.serve.deployments import Application as Application
    from skate.serve.deployments import Deployment as Deployment
    from skate.serve.deployments import deployment as deployment
    from skate.serve.http_ingress import ingress as ingress
    from skate.serve.multiplex import multiplexed as multiplexed
    from skate.serve.utils import get_trace_context as get_trace_context

_NAMES = {
    "Application": "deployments",
    "Deployment": "deployments",
    "ControllerOptions": "config",
    "HTTPOptions": "config",
    "RunTarget": "api",
    "batch": "batching",
    "delete": "api",
    "deployment": "deployments",
    "get_app_handle": "api",
    "multiplexed": "multiplex",
    "get_asgi_app": "asgi",
    "get_http_address": "asgi",
    "get_deployment_actor": "deployment_actors",
    "get_deployment_actor_context": "deployment_actors",
    "get_deployment_handle": "api",
    "get_multiplexed_model_id": "api",
    "get_replica_context": "api",
    "get_trace_context": "utils",
    "ingress": "http_ingress",
    "run": "api",
    "run_many": "api",
    "shutdown": "api",
    "shutdown_async": "api",
    "start": "api",
    "status": "api",
}
"""Public names, and the modules that they are loaded from when they are first asked for."""

_MODULES = frozenset({"config", "exceptions", "handle", "metrics", "schema"})

__all__ = [
    "Application",
    "ControllerOptions",
    "Deployment",
    "HTTPOptions",
    "RunTarget",
    "batch",
    "delete",
    "deployment",
    "get_app_handle",
    "get_asgi_app",
    "get_deployment_actor",
    "get_deployment_actor_context",
    "get_deployment_handle",
    "get_http_address",
    "get_multiplexed_model_id",
    "get_replica_context",
    "get_trace_context",
    "ingress",
    "multiplexed",
    "run",
    "run_many",
    "shutdown",
    "shutdown_async",
    "start",
    "status",
]


if not TYPE_CHECKING:  # or checkers would believe in every name

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in _MODULES:
            return import_module(f"skate.serve.{name}")
        module = _NAMES.get(name)
        if module is None:
            raise AttributeError(f"module 'skate.serve' has no attribute {name!r}")
        value = getattr(import_module(f"skate.serve.{module}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
