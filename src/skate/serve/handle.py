"""Handles of deployments."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from skate.serve import context
from skate.serve.context import DeploymentID, new_request_id, request_context
from skate.serve.deployments import DEFAULT, Unset
from skate.serve.exceptions import RayServeException
from skate.serve.fanout import DeploymentBroadcastResponse as DeploymentBroadcastResponse
from skate.serve.fanout import ReplicaSelection as ReplicaSelection
from skate.serve.fanout import selected
from skate.serve.request import Request
from skate.serve.responses import DeploymentResponse as DeploymentResponse
from skate.serve.responses import DeploymentResponseGenerator as DeploymentResponseGenerator
from skate.serve.router import Router, router_of
from skate.serve.told import Told

T = TypeVar("T")
FIELDS = ("method_name", "stream", "multiplexed_model_id", "session_id", "idempotent")
AGAIN = 2
"""How often an idempotent request is sent anew after it had begun."""
ONLY_IN_RAY = {
    "_prefer_local_routing": "all replicas of a machine are equally near",
    "_by_reference": "answers always travel by reference",
    "request_serialization": "requests are pickled",
    "response_serialization": "answers are pickled",
}
"""Options that are taken and change nothing, and why."""


class DeploymentHandle(Generic[T]):
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
        session_id: str = "",
        idempotent: bool = False,
    ) -> None:
        self.deployment_name = deployment_name
        self.app_name = app_name
        self._method = method_name
        self._stream = stream
        self._model = multiplexed_model_id
        self._session = session_id
        self._idempotent = idempotent
        self._router: Router | None = None

    @property
    def deployment_id(self) -> DeploymentID:
        """Application and deployment."""
        return DeploymentID(self.deployment_name, self.app_name)

    @property
    def is_initialized(self) -> bool:
        """Whether this process has heard of the replicas."""
        return self._router is not None and self._router.version >= 0

    def running_replicas_populated(self) -> bool:
        """Whether this process knows of a replica."""
        return self._router is not None and bool(self._router.known)

    def options(
        self,
        *,
        method_name: str | Unset | None = DEFAULT,
        multiplexed_model_id: str | Unset | None = DEFAULT,
        session_id: str | Unset | None = DEFAULT,
        stream: bool | Unset | None = DEFAULT,
        idempotent: bool | Unset | None = DEFAULT,
        **others: Any,
    ) -> DeploymentHandle[T]:
        """The same handle with other options.

        Args:
            method_name: the method that `remote` calls.
            multiplexed_model_id: the model that the request is for; see `serve.multiplexed`.
            session_id: the session that it belongs to, for request routers that go by it.
            stream: whether answers come in parts; the method must be a generator.
            idempotent: whether a request may run more than once: then one whose replica died while it ran is sent to
                another, at most twice, instead of raising RayActorError. Not in Ray.

        Raises TypeError for an option that there is not, or of a wrong type.
        """
        for name in others:
            if name not in ONLY_IN_RAY:
                raise TypeError(f"Handles have no option {name!r}; there are: {', '.join(FIELDS)}")
        given = {
            "method_name": (method_name, self._method),
            "stream": (stream, self._stream),
            "multiplexed_model_id": (multiplexed_model_id, self._model),
            "session_id": (session_id, self._session),
            "idempotent": (idempotent, self._idempotent),
        }
        return self._with({name: _value(name, *pair) for name, pair in given.items()})

    def _with(self, options: Mapping[str, Any]) -> DeploymentHandle[T]:
        made: DeploymentHandle[T] = DeploymentHandle(self.deployment_name, self.app_name, **options)
        made._router = self._router
        return made

    def __getattr__(self, name: str) -> DeploymentHandle[T]:
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
        request = Request(router, self._method, self._meta(), args, kwargs, self._stream, self._session)
        if self._idempotent:
            request.may_run_again = AGAIN
        router.submit(request)
        return DeploymentResponseGenerator(request) if self._stream else DeploymentResponse(request)

    def _meta(self) -> tuple[str, str, str, str]:
        here = request_context.get()
        return (here.request_id or new_request_id(), here.route, self.app_name, self._model)

    def broadcast(self, method_name: str, *args: Any, **kwargs: Any) -> DeploymentBroadcastResponse:
        """Call a method of every replica that there is now, whatever it has to do: for orders, not for requests."""
        return DeploymentBroadcastResponse(self._known_router(), method_name, self._meta(), args, kwargs)

    def choose_replica(self, *args: Any, **kwargs: Any) -> AbstractAsyncContextManager[ReplicaSelection]:
        """Choose a replica for a request and keep it room there, without sending it:
        ``async with handle.choose_replica(...) as selection: await handle.dispatch(selection, ...)``.
        """
        request = Request(self._known_router(), self._method, self._meta(), args, kwargs, self._stream, self._session)
        return selected(request, self.deployment_id)

    def dispatch(self, selection: ReplicaSelection, *args: Any, **kwargs: Any) -> Any:
        """Send a request to the replica that was chosen, with these arguments; what `remote` gives.

        Raises ValueError for a choice of another deployment's handle, RayServeException for one that was used.
        """
        if selection.deployment_id != self.deployment_id:
            raise ValueError(f"The replica was chosen for {selection.deployment_id}, this is {self.deployment_id}")
        if selection.used:
            raise RayServeException("A request was sent to this choice of a replica already, or it is over")
        request = selection.take(args, kwargs)
        request.router.submit(request)
        return DeploymentResponseGenerator(request) if request._stream else DeploymentResponse(request)

    def _known_router(self) -> Router:
        router = self._router
        if router is None or router.closed:
            router = self._router = router_of(self.app_name, self.deployment_name)
        return router

    def shutdown(self) -> None:
        """Nothing is to be done: a process has one router for all its handles of a deployment."""

    async def shutdown_async(self) -> None:
        """The same."""

    def _init(self, told: Told | None = None, **_: Any) -> None:
        """Get to know the replicas now rather than at the first call."""
        self._router = router_of(self.app_name, self.deployment_name, told)

    def __repr__(self) -> str:
        return f"DeploymentHandle(deployment={self.deployment_name!r}, app={self.app_name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self._method, self._stream, self._model, self._session, self._idempotent)
        return _arrived, (self.deployment_name, self.app_name, *fields)


def _value(name: str, given: Any, old: Any) -> Any:
    """An option of a handle, checked."""
    if given is None or isinstance(given, Unset):
        return old
    kind = type(old)
    if not isinstance(given, kind):
        raise TypeError(f"{name} must be {kind.__name__}, not {given!r} ({type(given).__name__})")
    return given


def _arrived(deployment: str, app: str, *fields: Any) -> DeploymentHandle[Any]:
    handle: DeploymentHandle[Any] = DeploymentHandle(deployment, app, *fields)
    if context.loop is not None:  # in a replica, where it is sure to be used
        handle._init()
    return handle
