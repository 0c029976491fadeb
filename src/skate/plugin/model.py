"""What a plugin says of itself, and what there is to call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ApiType(StrEnum):
    """How an API can be called."""

    FUNC = "func"
    """By other plugins, as ``plugin.Class.method``."""
    HTTP = "http"
    """By its path: over HTTP, and by other plugins."""
    ALL = "all"
    """Both."""
    PROXY = "proxy"
    """It is an upstream service's."""


class PluginMetadata(BaseModel):
    """A plugin's own description: the ``__plugin_meta__`` of its module."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    name: str
    version: str
    description: str
    author: str = ""
    url: str = ""
    required_remote_apis: list[str] = Field(default_factory=list)
    """What it calls: paths such as ``/api/v1/echo``, names such as ``echo.EchoPlugin.confess``."""
    priority: int = 0
    """Those with a higher one are started first."""
    tags: list[str] = Field(default_factory=list)
    """Tags of its routes in the OpenAPI document."""
    config_class: type[BaseModel] | None = None
    """What checks its table ``[plugins.NAME]``."""


@dataclass(frozen=True)
class Route:
    """What `on_request` was given."""

    path: str | None
    methods: tuple[str, ...]
    call_type: ApiType
    stream: bool
    raw_response: bool
    tags: tuple[str, ...]
    cache: Mapping[str, Any] | None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of FastAPI's ``add_api_route``."""


@dataclass(frozen=True)
class PluginApi:
    """A method of a plugin that can be called."""

    plugin: str
    deployment: str
    """Plugin and class, as in ``echo.EchoPlugin``."""
    method: str
    route: Route

    @property
    def name(self) -> str:
        """Its name, as in ``echo.EchoPlugin.confess``."""
        return f"{self.deployment}.{self.method}"

    @property
    def path(self) -> str | None:
        """Its path, where it has one."""
        return self.route.path

    @property
    def by_name(self) -> bool:
        """Whether plugins can call it by its name."""
        return self.route.call_type in (ApiType.FUNC, ApiType.ALL)

    @property
    def function(self) -> str:
        """The method's name."""
        return self.method


@dataclass
class PluginDeployment:
    """A class of a plugin that was marked with `on_register`."""

    name: str
    cls: type
    options: dict[str, Any]
    apis: list[PluginApi]


@dataclass
class Plugin:
    """A plugin that was loaded."""

    name: str
    """The last part of its module's name."""
    module: str
    metadata: PluginMetadata
    deployments: list[PluginDeployment]

    @property
    def apis(self) -> list[PluginApi]:
        """All that can be called."""
        return [api for deployment in self.deployments for api in deployment.apis]


Handler = Callable[..., Any]
