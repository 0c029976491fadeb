"""The session that a command looks at: this program's, or one that it attaches to for as long as it looks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

import skate
from skate.util.state.exception import RayStateApiException


@contextlib.contextmanager
def attached(address: str | None) -> Iterator[None]:
    """Run the block with a session; what cannot be answered ends the command with its reason."""
    ours = not skate.is_initialized()
    if ours:
        try:
            skate.init(address=address or "auto", log_to_driver=False, _looks_in=True)
        except ConnectionError as error:
            raise click.ClickException(str(error)) from error
    try:
        yield
    except (RayStateApiException, ValueError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        if ours:
            skate.shutdown()
