"""The command `skate`. This module stays light: each command is loaded when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    `arguments` default to those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        from skate._version import __version__

        print(f"skate {__version__}")
        return
    from skate.cli.commands import parse

    # A command that hands the process over to a user's program returns it as a callable. It runs
    # here, outside of click, which would swallow KeyboardInterrupt and broken pipes.
    program = parse(words)
    if program is not None:
        program()
