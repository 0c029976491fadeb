"""The decorators of plugins: ``@on_register``, ``@on_request``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from skate.plugin.consts import API_STR
from skate.plugin.model import ApiType, PluginApi, Route

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

OPTIONS_MARK = "__skate_plugin_options__"
ROUTE_MARK = "__skate_plugin_route__"
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
CACHED_METHODS = frozenset({"GET", "POST"})
CACHE_OPTIONS = frozenset({"ttl", "key_builder"})

REGISTERED: list[type] = []
"""Classes that were marked in this process; the loader looks up those of a module."""


def on_register(**options: Any) -> Callable[[C], C]:
    """Make a class a part of its plugin, which is started with it.

    Args:
        options: deployment options, as `skate.serve.deployment` takes them: ``num_replicas``,
            ``max_ongoing_requests``, ``ray_actor_options``, ... In one process only the limits count.

    Raises TypeError for an option that does not exist, naming the nearest one.
    """
    check_options(options)

    def decorate(cls: C) -> C:
        if not inspect.isclass(cls):
            raise TypeError(f"@on_register() marks a class, not {cls!r}")
        setattr(cls, OPTIONS_MARK, dict(options))
        REGISTERED.append(cls)
        return cls

    return decorate


def check_options(options: Mapping[str, Any]) -> None:
    """TypeError for a deployment option that does not exist."""
    from skate.serve.deployments import OPTIONS

    for name in options:
        if name not in OPTIONS or name == "route_prefix":
            from difflib import get_close_matches

            near = get_close_matches(name, OPTIONS, 1)
            hint = f" Is {near[0]!r} meant?" if near else ""
            raise TypeError(f"There is no deployment option {name!r}.{hint} There are: {', '.join(sorted(OPTIONS))}")


def on_request(
    path: str | None = None,
    methods: Sequence[str] | None = None,
    call_type: ApiType | str = ApiType.HTTP,
    stream: bool = False,
    api_prefix: bool = True,
    raw_response: bool = False,
    tags: Sequence[str] | None = None,
    cache: Mapping[str, Any] | None = None,
    **extra: Any,
) -> Callable[[F], F]:
    """Let a method of a plugin be called.

    Args:
        path: its path, below ``/api/v1`` (which may be written or not, as the ``/`` at its beginning).
        methods: HTTP methods; ``["GET"]`` by default.
        call_type: ``HTTP``: by its path; ``FUNC``: by other plugins only, as ``plugin.Class.method``; ``ALL``: both.
        stream: the method is a generator, whose items are sent as server-sent events.
        api_prefix: False: the path stays as it is written.
        raw_response: answer with the value itself, not in an envelope of status, message and data.
        tags: tags in the OpenAPI document; by default the plugin's.
        cache: keep answers to GET and POST: ``{"ttl": seconds, "key_builder": function}``, both optional.
        extra: further arguments of FastAPI's ``add_api_route``.

    Raises ValueError for what does not go together.
    """
    kind = ApiType(call_type)
    if kind is ApiType.FUNC and path is not None:
        raise ValueError(f"on_request({path!r}, call_type=FUNC): a path needs call_type HTTP or ALL")
    if kind is not ApiType.FUNC:
        if not path:
            raise ValueError(f"on_request needs a path, not {path!r}; or call_type=ApiType.FUNC")
        path = path if path.startswith("/") else "/" + path
        if api_prefix and path != API_STR and not path.startswith(API_STR + "/"):
            path = API_STR + path
    verbs = tuple(str(method).upper() for method in methods or ("GET",))
    if unknown := sorted(set(verbs) - METHODS):
        raise ValueError(f"on_request({path!r}): there are no methods {unknown}; there are {sorted(METHODS)}")
    if cache is not None:
        _check_cache(path, verbs, cache, stream or kind is ApiType.FUNC)
    route = Route(path, verbs, kind, stream, raw_response, tuple(tags or ()), cache, extra)

    def decorate(function: F) -> F:
        setattr(function, ROUTE_MARK, route)
        return function

    return decorate


def _check_cache(path: str | None, verbs: tuple[str, ...], cache: Mapping[str, Any], never: bool) -> None:
    if unknown := sorted(set(cache) - CACHE_OPTIONS):
        raise ValueError(f"on_request({path!r}): cache has no options {unknown}; it has {sorted(CACHE_OPTIONS)}")
    if never or not set(verbs) <= CACHED_METHODS:
        raise ValueError(f"on_request({path!r}): only routes of GET and POST that are no streams can be cached")
    ttl = cache.get("ttl")
    if ttl is not None and (not isinstance(ttl, int) or (ttl <= 0 and ttl != -1)):
        raise ValueError(f"on_request({path!r}): ttl must be a number of seconds, or -1 (without end), not {ttl!r}")


def apis_of(cls: type, plugin: str) -> list[PluginApi]:
    """What can be called of a class, in the order it is written, that of its bases first."""
    found: dict[str, Route] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            found.pop(name, None)  # overridden: only marked anew
            route = getattr(value, ROUTE_MARK, None)
            if isinstance(route, Route):
                found[name] = route
    deployment = f"{plugin}.{cls.__name__}"
    return [PluginApi(plugin, deployment, name, route) for name, route in found.items()]
