"""Handles of deployments."""

from __future__ import annotations

from typing import Any

from skate.serve import context
from skate.serve.context import new_request_id, request_context
from skate.serve.request import Request
from skate.serve.responses import DeploymentResponse as DeploymentResponse
from skate.serve.responses import DeploymentResponseGenerator as DeploymentResponseGenerator
from skate.serve.router import Router, Told, router_of


class DeploymentHandle:
    """Calls a deployment: ``handle.remote(...)``, ``handle.method.remote(...)``.

    Works in drivers, tasks, actors and replicas, on an event loop and off one, and can be sent.
    """

    def __init__(
        self,
        deployment_name: str,
        app_name: str,
        method_name: str = "__call__",
        stream: bool = False,
        multiplexed_model_id: str = "",
    ) -> None:
        self.deployment_name = deployment_name
        self.app_name = app_name
        self._method = method_name
        self._stream = stream
        self._model = multiplexed_model_id
        self._router: Router | None = None

    @property
    def deployment_id(self) -> str:
        """Application and deployment, as in ``app#deployment``."""
        return f"{self.app_name}#{self.deployment_name}"

    @property
    def is_initialized(self) -> bool:
        """Whether this process has heard of the replicas."""
        return self._router is not None and self._router.version >= 0

    def options(
        self,
        *,
        method_name: str | None = None,
        multiplexed_model_id: str | None = None,
        stream: bool | None = None,
        use_new_handle_api: bool | None = None,
        _prefer_local_routing: bool | None = None,
    ) -> DeploymentHandle:
        """The same handle with other options.

        Args:
            method_name: the method that `remote` calls.
            multiplexed_model_id: the model that the request is for; see `serve.multiplexed`.
            stream: whether answers come in parts; the method must be a generator.
        """
        made = DeploymentHandle(
            self.deployment_name,
            self.app_name,
            self._method if method_name is None else method_name,
            self._stream if stream is None else stream,
            self._model if multiplexed_model_id is None else multiplexed_model_id,
        )
        made._router = self._router
        return made

    def __getattr__(self, name: str) -> DeploymentHandle:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        made = self.options(method_name=name)
        self.__dict__[name] = made
        return made

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the deployment: a `DeploymentResponse`, or with ``stream=True`` a `DeploymentResponseGenerator`, at
        once.
        """
        router = self._router
        if router is None or router.closed:
            router = self._router = router_of(self.app_name, self.deployment_name)
        here = request_context.get()
        meta = (here.request_id or new_request_id(), here.route, self.app_name, self._model)
        request = Request(router, self._method, meta, args, kwargs, self._stream)
        router.submit(request)
        return DeploymentResponseGenerator(request) if self._stream else DeploymentResponse(request)

    def _init(self, told: Told | None = None, **_: Any) -> None:
        """Get to know the replicas now rather than at the first call."""
        self._router = router_of(self.app_name, self.deployment_name, told)

    def __repr__(self) -> str:
        return f"DeploymentHandle(deployment={self.deployment_name!r}, app={self.app_name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.deployment_name, self.app_name, self._method, self._stream, self._model)


def _arrived(deployment: str, app: str, method: str, stream: bool, model: str) -> DeploymentHandle:
    handle = DeploymentHandle(deployment, app, method, stream, model)
    if context.loop is not None:  # in a replica, where it is sure to be used
        handle._init()
    return handle
