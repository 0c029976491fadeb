"""Services made of plugins: run in one process, in a process for each plugin, or on Ray, by configuration alone.

What is where:

* `marks`, `base`, `model`, `work`: what plugins are written with; `loading`: finding them; `settings`: their tables;
* `catalog`: what can be called and by whom; `calls`: calling it; `host`: a plugin's instance and its methods;
* `backends`: where instances live: this process, or deployments of `skate.serve`; `session`: deploying them;
  `starting`: waiting for them; `carried`: what cannot be pickled on its way to them; `limits`: how many calls at once;
* `service`: putting it together and serving; `app`: the ASGI application; `routes`: a method as a route; `gate`: what
  each request passes first; `auth`, `cache`, `logs`, `metrics`, `pages`: its parts; `sse`, `encoding`: how answers are
  written;
* `login`, `oidc`: people who log in to read the pages; `operations`: what each process sets up: `telemetry`: spans;
  `sentry`: reports of errors; `scrub`: taking secrets out of texts;
* `upstream`, `documents`: other services' routes as our own; `proxied`: functions that run on another service;
  `builtin/`: plugins that ship with Skate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skate.plugin.base import BasePlugin as BasePlugin
    from skate.plugin.calls import Stream as Stream
    from skate.plugin.calls import call_plugin_api as call_plugin_api
    from skate.plugin.consts import API_STR as API_STR
    from skate.plugin.consts import VERSION as VERSION
    from skate.plugin.errors import ApiNotAllowedError as ApiNotAllowedError
    from skate.plugin.errors import ApiNotFoundError as ApiNotFoundError
    from skate.plugin.errors import ArgumentsError as ArgumentsError
    from skate.plugin.errors import PluginDependencyError as PluginDependencyError
    from skate.plugin.errors import PluginError as PluginError
    from skate.plugin.errors import PluginLoadError as PluginLoadError
    from skate.plugin.errors import UpstreamError as UpstreamError
    from skate.plugin.loading import load_builtin_plugins as load_builtin_plugins
    from skate.plugin.loading import load_plugins as load_plugins
    from skate.plugin.marks import on_register as on_register
    from skate.plugin.marks import on_request as on_request
    from skate.plugin.model import ApiType as ApiType
    from skate.plugin.model import PluginMetadata as PluginMetadata
    from skate.plugin.proxied import on_proxy as on_proxy
    from skate.plugin.proxied import register_proxy_func as register_proxy_func
    from skate.plugin.service import run as run
    from skate.plugin.settings import get_plugin_config as get_plugin_config
    from skate.plugin.sse import StreamEventType as StreamEventType
    from skate.plugin.sse import make_stream_event as make_stream_event
    from skate.plugin.work import remote as remote

_NAMES = {
    "API_STR": "consts",
    "ApiNotAllowedError": "errors",
    "ApiNotFoundError": "errors",
    "ApiType": "model",
    "ArgumentsError": "errors",
    "BasePlugin": "base",
    "PluginDependencyError": "errors",
    "PluginError": "errors",
    "PluginLoadError": "errors",
    "PluginMetadata": "model",
    "Stream": "calls",
    "StreamEventType": "sse",
    "UpstreamError": "errors",
    "VERSION": "consts",
    "call_plugin_api": "calls",
    "get_plugin_config": "settings",
    "load_builtin_plugins": "loading",
    "load_plugins": "loading",
    "make_stream_event": "sse",
    "on_proxy": "proxied",
    "on_register": "marks",
    "on_request": "marks",
    "register_proxy_func": "proxied",
    "remote": "work",
    "run": "service",
}
"""Public names, and the modules that they are loaded from when they are first asked for."""

__all__ = sorted(_NAMES)


if not TYPE_CHECKING:  # or checkers would believe in every name

    def __getattr__(name: str) -> object:
        from importlib import import_module

        module = _NAMES.get(name)
        if module is None:
            raise AttributeError(f"module 'skate.plugin' has no attribute {name!r}")
        try:
            value = getattr(import_module(f"skate.plugin.{module}"), name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("skate"):
                raise
            raise ImportError(f'{error}. Plugins need: pip install "skate-ray[plugin]"') from error
        globals()[name] = value
        return value
