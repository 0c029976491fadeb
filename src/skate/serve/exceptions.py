"""Errors of serve, with the names of `ray.serve.exceptions`."""

from __future__ import annotations

from typing import Any

from skate.exceptions import TaskCancelledError


class RayServeException(Exception):
    """The root of serve's own errors."""


class NotRunningError(RayServeException, RuntimeError):
    """Serve does not run in this session."""


class RouteTakenError(RayServeException, ValueError):
    """The route prefix belongs to another application."""


class UnknownDeploymentError(RayServeException, KeyError):
    """There is no deployment of this name."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownMethodError(RayServeException, AttributeError):
    """The deployment has no method of this name."""


class BackPressureError(RayServeException):
    """A request was turned away: as many wait in the caller's handle as ``max_queued_requests`` allows.

    Args:
        num_queued_requests: how many wait.
        max_queued_requests: how many may.
        status_code: what an HTTP client is answered.
        retry_after_s: after how many seconds it is told to try again; None: it is not told.
    """

    def __init__(
        self,
        num_queued_requests: int,
        max_queued_requests: int,
        status_code: int = 503,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(num_queued_requests, max_queued_requests, status_code, retry_after_s)
        self.num_queued_requests = num_queued_requests
        self.max_queued_requests = max_queued_requests
        self.status_code = status_code
        self.retry_after_s = retry_after_s

    @property
    def message(self) -> str:
        """What `str` gives."""
        return (
            f"Request dropped due to backpressure: {self.num_queued_requests} requests wait in this handle, and "
            f"max_queued_requests is {self.max_queued_requests}."
        )

    def __str__(self) -> str:
        return self.message


class RequestCancelledError(RayServeException, TaskCancelledError):
    """The request was cancelled before it had an answer."""

    def __init__(self, request_id: str | None = None) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return f"Request {self.request_id} was cancelled." if self.request_id else "Request was cancelled."


class DeploymentUnavailableError(RayServeException):
    """The deployment cannot answer: its deploying failed, it was deleted, or there never was one.

    Args:
        deployment: its name.
        application: the application's name.
        why: why it cannot answer.
    """

    def __init__(self, deployment: str, application: str = "", why: str = "it could not be deployed") -> None:
        super().__init__(deployment, application, why)
        self.deployment = deployment
        self.application = application
        self.why = why

    @property
    def message(self) -> str:
        """What `str` gives."""
        return f"Deployment {self.deployment!r} of application {self.application!r} is unavailable: {self.why}."

    def __str__(self) -> str:
        return self.message


class ReplicaUnavailableError(RayServeException):
    """The replica that was chosen is gone.

    Args:
        replica_id: its own id.
    """

    def __init__(self, replica_id: str) -> None:
        super().__init__(replica_id)
        self.replica_id = replica_id

    @property
    def message(self) -> str:
        """What `str` gives."""
        return f"Replica {self.replica_id} is no longer available."

    def __str__(self) -> str:
        return self.message


class gRPCStatusError(RayServeException):
    """An error with the gRPC status that its client is to be answered.

    Args:
        original_exception: what was raised.
        code: a ``grpc.StatusCode``; None: as for any error.
        details: text for the client.
    """

    def __init__(self, original_exception: BaseException, code: Any = None, details: str | None = None) -> None:
        super().__init__(original_exception, code, details)
        self.original_exception = original_exception
        self.grpc_code = code
        self.grpc_details = details

    def __str__(self) -> str:
        return str(self.original_exception)
