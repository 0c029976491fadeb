"""All that can be called in a service, and who may call what. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from skate.configuration import without_login
from skate.plugin.errors import ApiNotAllowedError, ApiNotFoundError, PluginDependencyError
from skate.plugin.model import Plugin, PluginApi


@dataclass(frozen=True)
class UpstreamApi:
    """An operation of an upstream service, as its OpenAPI document has it."""

    base_url: str
    path: str
    method: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Where each goes: ``query``, ``path``, ``header``, ``cookie``."""
    body: str = ""
    """The content type of its body; empty: it has none."""
    body_fields: frozenset[str] = frozenset()
    file_fields: frozenset[str] = frozenset()
    stream: bool = False
    operation: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Its description, with references to components of the document."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return without_login(f"{self.method} {self.base_url}{self.path}")


Callee = PluginApi | UpstreamApi


@dataclass
class Catalog:
    """APIs by path and by name, and what each plugin declared to call."""

    by_path: dict[str, list[Callee]] = field(default_factory=dict)
    by_name: dict[str, PluginApi] = field(default_factory=dict)
    allowed: dict[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, plugins: Iterable[Plugin], upstream: Iterable[UpstreamApi] = ()) -> Catalog:
        """The catalog of plugins and upstream services. What a plugin offers goes over what an upstream does."""
        made = cls()
        for plugin in plugins:
            made.allowed[plugin.name] = frozenset(plugin.metadata.required_remote_apis)
            for api in plugin.apis:
                if api.path is not None:
                    made.by_path.setdefault(api.path, []).append(api)
                if api.by_name:
                    made.by_name[api.name] = api
                    made.by_name.setdefault(f"{plugin.metadata.name}.{api.name.partition('.')[2]}", api)
        for each in upstream:
            known = made.by_path.setdefault(each.path, [])
            if not any(isinstance(api, PluginApi) for api in known):
                known.append(each)
        return made

    def conflicts(self) -> list[str]:
        """Methods of paths that two plugins offer."""
        found = []
        for path, apis in self.by_path.items():
            owners: dict[str, str] = {}
            for api in apis:
                for method in api.route.methods if isinstance(api, PluginApi) else ():
                    if method in owners:
                        found.append(f"{method} {path} is offered by {owners[method]} and by {api.name}")
                    owners[method] = api.name
        return found

    def check(self) -> None:
        """PluginDependencyError if a plugin requires what is not there; it names all of it."""
        every = [*self.by_path, *self.by_name]
        missing = [
            (plugin, wanted, next(iter(get_close_matches(wanted, every, 1, 0.75)), ""))
            for plugin, wants in self.allowed.items()
            for wanted in sorted(wants)
            if self._find(wanted) is None
        ]
        if missing:
            raise PluginDependencyError(missing)

    def _find(self, api: str) -> Callee | None:
        if api.startswith("/"):
            found = self.by_path.get(api)
            # a call has no method: what changes something is not called by accident
            return min(found, key=_mildest) if found else None
        return self.by_name.get(api)

    def resolve(self, caller: str | None, api: str) -> Callee:
        """The API that a plugin calls; `caller` None is the program itself, which may call all.

        Raises ApiNotAllowedError for what the plugin did not declare, ApiNotFoundError for what is not there.
        """
        if caller is not None and api not in self.allowed.get(caller, ()):
            raise ApiNotAllowedError(
                f"Plugin {caller!r} calls {api!r}, which it does not declare: "
                f"add it to required_remote_apis of its PluginMetadata."
            )
        found = self._find(api)
        if found is None:
            near = get_close_matches(api, [*self.by_path, *self.by_name], 1)
            raise ApiNotFoundError(f"There is no API {api!r}." + (f" Is {near[0]!r} meant?" if near else ""))
        return found


def _mildest(api: Callee) -> int:
    methods = api.route.methods if isinstance(api, PluginApi) else (api.method,)
    order = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return min(order.index(method) for method in methods)
