"""Errors of serve, with the names of `ray.serve.exceptions`."""

from __future__ import annotations

from skate.exceptions import RayError, TaskCancelledError


class RayServeException(RayError):
    """The root of serve's own errors."""


class BackPressureError(RayServeException):
    """A request was turned away: as many wait in the caller's handle as ``max_queued_requests`` allows."""

    def __init__(self, num_queued_requests: int, max_queued_requests: int) -> None:
        super().__init__(
            f"Request dropped due to backpressure: {num_queued_requests} requests wait in this handle, and "
            f"max_queued_requests is {max_queued_requests}."
        )
        self.num_queued_requests = num_queued_requests
        self.max_queued_requests = max_queued_requests

    @property
    def message(self) -> str:
        """What `str` gives."""
        return str(self)


class RequestCancelledError(RayServeException, TaskCancelledError):
    """The request was cancelled before it had an answer."""

    def __init__(self, request_id: str | None = None) -> None:
        super().__init__(f"Request {request_id} was cancelled." if request_id else "The request was cancelled.")
        self.request_id = request_id

    def __str__(self) -> str:
        return str(self.args[0])


class DeploymentUnavailableError(RayServeException):
    """The deployment cannot answer: its deploying failed, or it was deleted."""

    def __init__(self, deployment: str, application: str, why: str = "it could not be deployed") -> None:
        super().__init__(f"Deployment {deployment!r} of application {application!r} is unavailable: {why}.")
        self.deployment = deployment
        self.application = application
