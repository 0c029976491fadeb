"""What the state API raises."""

from __future__ import annotations

__all__ = ["DataSourceUnavailable", "RayStateApiException", "ServerUnavailable"]


class DataSourceUnavailable(Exception):
    """A part of the session cannot tell its state. Nothing here raises it: it is Ray's, for programs that catch it."""


class RayStateApiException(Exception):
    """A question that cannot be answered as it was asked: a filter, a limit or a file that there is not."""


class ServerUnavailable(RayStateApiException):
    """There is no session to ask."""
