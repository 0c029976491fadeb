"""What can go wrong with plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class PluginError(RuntimeError):
    """The root of all of these."""


class PluginLoadError(PluginError):
    """Plugins could not be loaded or started. `causes` has each plugin's name, or module, with its cause."""

    def __init__(self, causes: Mapping[str, BaseException | str]) -> None:
        self.causes = dict(causes)
        lines = "\n".join(f"  {name}: {describe(cause)}" for name, cause in self.causes.items())
        super().__init__(f"Plugins that do not work ({len(self.causes)}):\n{lines}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), ({name: describe(cause) for name, cause in self.causes.items()},)


class PluginDependencyError(PluginError):
    """APIs that plugins require and nobody offers: all of them."""

    def __init__(self, missing: Sequence[tuple[str, str, str]]) -> None:
        self.missing = list(missing)
        """Plugin, API, and the nearest one that there is (or "")."""
        lines = "\n".join(
            f"  {plugin} requires {api!r}" + (f"; is {near!r} meant?" if near else "") for plugin, api, near in missing
        )
        super().__init__(f"APIs that plugins require and no plugin offers ({len(missing)}):\n{lines}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.missing,)


class ApiNotAllowedError(PluginError):
    """A plugin called what its ``required_remote_apis`` does not declare."""


class ApiNotFoundError(PluginError, LookupError):
    """There is no such API."""


class ArgumentsError(PluginError, TypeError):
    """A plugin called another with arguments that do not fit."""


class UpstreamError(PluginError):
    """An upstream service could not be reached, or answered with an error.

    `status` is what a client is told: 502 or 504, or what the upstream answered.
    """

    def __init__(self, message: str, status: int = 502) -> None:
        self.status = status
        super().__init__(message, status)

    def __str__(self) -> str:
        return str(self.args[0])


class BusyError(PluginError):
    """A limit of requests is reached, and so is that of those that wait."""


def describe(cause: BaseException | str) -> str:
    """A cause in a line."""
    if isinstance(cause, str):
        return cause
    from pydantic import ValidationError  # the command line tells who lacks it, and has these errors by then

    if isinstance(cause, ValidationError):
        problems = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in cause.errors())
        return f"{cause.title}: {'; '.join(problems)}"
    text = str(cause).strip() or "no message"
    return f"{type(cause).__name__}: {text.splitlines()[-1] if isinstance(cause, SyntaxError) else text}"
