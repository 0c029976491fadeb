"""Errors of plugins, reported to Sentry. Nothing is imported or sent unless ``[sentry] dsn`` is given."""

from __future__ import annotations

from typing import Any

from skate.configuration import Config
from skate.plugin.scrub import Scrubber

FLUSH_S = 2.0


class Reporter:
    """Reports errors. Raises ImportError without sentry-sdk, ConfigError for a DSN that is none.

    A program that has set up Sentry itself is left as it is: what is reported goes to its client.
    """

    def __init__(self, config: Config, scrub: Scrubber) -> None:
        try:
            import sentry_sdk
        except ImportError as error:
            raise ImportError(f'{error}. [sentry] needs: pip install "skate-ray[plugin-sentry]"') from error
        from sentry_sdk.utils import BadDsn

        from skate.configuration import ConfigError

        self.scrub = scrub
        table = config.sentry
        given = sentry_sdk.get_client()
        if given.is_active() and not getattr(given, "_skate_made", None):
            return
        if getattr(given, "_skate_made", None) == table:
            return
        try:
            sentry_sdk.init(
                dsn=table.dsn,
                environment=table.environment or None,
                release=table.release or None,
                sample_rate=table.sample_rate,
                before_send=self._cleaned,
                # no more than what is reported here: integrations would add requests, logs, arguments
                default_integrations=False,
                auto_enabling_integrations=False,
                include_local_variables=False,
                max_request_body_size="never",
                auto_session_tracking=False,
            )
        except BadDsn:
            raise ConfigError("[sentry] dsn is no DSN of Sentry; it is not shown here") from None
        sentry_sdk.get_client()._skate_made = table  # type: ignore[attr-defined]

    def _cleaned(self, event: Any, hint: Any) -> Any:
        return self.scrub.tree(event)

    def report(self, error: BaseException, plugin: str, where: str, request_id: str) -> None:
        """Report an error: who it is of, where it came out, and the request that it belongs to."""
        import sentry_sdk
        from sentry_sdk.utils import event_from_exception

        # locals may be anything: they are never sent, whatever the client is set to
        options = {**sentry_sdk.get_client().options, "include_local_variables": False}
        event, hint = event_from_exception(error, options, {"type": "skate.plugin", "handled": False})
        tags = {"plugin": plugin, "api": where, "request_id": request_id}
        event["tags"] = {name: value for name, value in tags.items() if value}
        event["level"] = "error"
        sentry_sdk.capture_event(self.scrub.tree(event), hint)

    def flush(self) -> None:
        """Send what waits to be sent."""
        import sentry_sdk

        sentry_sdk.flush(FLUSH_S)


current: Reporter | None = None
"""The reporter of this process; None: nothing is reported."""


def set_up(config: Config, scrub: Scrubber) -> None:
    """Have errors of this process reported, if that is configured. Raises as `Reporter`."""
    global current
    current = Reporter(config, scrub) if config.sentry.dsn else None
