"""``@on_proxy()``: functions that run here, or on another service, by configuration alone.

A call travels as JSON: the function's name and its arguments, signed with the secret that both services have
(HMAC-SHA256 over time, nonce and body). Only functions that were registered there can be called, their arguments are
read by their annotations, and a call is taken once, within a minute.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import inspect
import json
import os
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from pydantic import TypeAdapter, ValidationError

from skate.configuration import Config
from skate.plugin import calls, settings
from skate.plugin.consts import PROXY_FUNC_HTTP_PATH
from skate.plugin.encoding import encode, plain
from skate.plugin.errors import ApiNotFoundError, ArgumentsError, PluginError
from skate.plugin.host import hints
from skate.plugin.upstream import ProxyConfig, Upstreams

VALID_S = 60.0
"""Seconds for which a signed call is taken."""
LONGEST = 16 << 20
"""Bytes of a call at most."""
FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""What other services may call in this process."""


def full_name(function: Callable[..., Any]) -> str:
    """Module and name of a function, as configuration has it."""
    return f"{function.__module__}.{function.__qualname__}"


class Registered:
    """Registering is done at once; awaiting it is allowed."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


def register_proxy_func(function: Callable[..., Any]) -> Registered:
    """Let other services that have the secret call a function marked with `on_proxy`; call this in ``on_start``.

    Raises TypeError for one that is not marked.
    """
    if not hasattr(function, "__skate_proxied__"):
        raise TypeError(f"{full_name(function)} is not marked with @on_proxy()")
    FUNCTIONS[full_name(function)] = function.__skate_proxied__
    return Registered()


def on_proxy() -> Callable[[Callable[..., Any]], Callable[..., Awaitable[Any]]]:
    """Let a function run on another service where ``[plugins.proxy] proxy_functions`` says so, and here otherwise.

    Its arguments and its value travel as JSON; annotations tell what they are made into again.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> Any:
            url = _elsewhere(full_name(function))
            if url is not None:
                return await _ask(url, function, args, kwargs)
            value = function(*args, **kwargs)
            return await value if inspect.isawaitable(value) else value

        run.__skate_proxied__ = function  # type: ignore[attr-defined]
        return run

    return decorate


def _elsewhere(name: str) -> str | None:
    table = settings.current().plugins.get("proxy")
    if not table or not table.get("proxy_functions"):
        return None
    proxy = ProxyConfig.of(settings.current())
    return next((url.rstrip("/") for url, names in proxy.proxy_functions.items() if name in names), None)


async def _ask(url: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    config = settings.current()
    proxy = ProxyConfig.of(config)
    if not proxy.secret:
        raise PluginError(f"{full_name(function)} runs on {url}: [plugins.proxy] needs the secret of that service")
    bound = inspect.signature(function).bind(*args, **kwargs)
    body = encode({"function": full_name(function), "arguments": plain(dict(bound.arguments))})
    headers = [("content-type", "application/json"), *signed(proxy.secret, body)]
    own = calls.runtime().upstreams if calls.has_runtime() else Upstreams(config)  # type: ignore[attr-defined]
    answer = await own.send("POST", url + PROXY_FUNC_HTTP_PATH, headers, body, path=PROXY_FUNC_HTTP_PATH)
    try:
        await answer.aread()
    finally:
        await answer.aclose()
        if not calls.has_runtime():
            await own.close()
    if answer.status_code != 200:
        raise PluginError(f"{full_name(function)} on {url}: {answer.status_code} {_message(answer)}")
    returns = hints(function).get("return", Any)
    return TypeAdapter(returns).validate_python(answer.json()["data"])


def _message(answer: Any) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def signed(secret: str, body: bytes) -> list[tuple[str, str]]:
    """The headers that prove who sends a call."""
    when, nonce = f"{time.time():.3f}", os.urandom(16).hex()
    return [
        ("x-skate-time", when),
        ("x-skate-nonce", nonce),
        ("x-skate-signature", _signature(secret, when, nonce, body)),
    ]


def _signature(secret: str, when: str, nonce: str, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{when}\n{nonce}\n".encode() + body, hashlib.sha256).hexdigest()


class Verifier:
    """Tells signed calls from others; each is taken once.

    Calls that were signed before it was made are refused, for one like it may have taken them.
    """

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self._began = time.time()
        self._seen: dict[str, float] = {}
        """Nonces and when they came, the oldest first."""

    def refuses(self, when: str, nonce: str, signature: str, body: bytes) -> str:
        """Why a call is not taken; empty: it is. Strangers, who cannot sign, learn nothing."""
        wanted = _signature(self.secret, when, nonce, body)
        if not hmac.compare_digest(wanted.encode(), signature.encode()):
            return "the call is not signed as it should be"
        now = time.time()
        try:
            behind = now - float(when)
        except ValueError:
            return "the call is not signed as it should be"
        if not abs(behind) <= VALID_S:  # NaN is neither
            return f"the call was signed {behind:+.0f} s ago, by this service's clock; {VALID_S:.0f} s are allowed"
        if now - behind < self._began - 0.001:  # times are sent in milliseconds
            return "the call was signed before this service began"
        if nonce in self._seen:
            return "the call has been taken already"
        self._seen[nonce] = now
        while self._seen[oldest := next(iter(self._seen))] < now - 2 * VALID_S:
            del self._seen[oldest]
        return ""


async def run_function(name: str, arguments: dict[str, Any]) -> Any:
    """Run a registered function with arguments as JSON brings them. Raises ApiNotFoundError, ArgumentsError."""
    function = FUNCTIONS.get(name)
    if function is None:
        raise ApiNotFoundError(f"No function {name!r} is registered here.")
    known = hints(function)
    try:
        values = {
            key: TypeAdapter(known[key]).validate_python(value) if key in known else value
            for key, value in arguments.items()
        }
        inspect.signature(function).bind(**values)
    except (ValidationError, TypeError) as error:
        raise ArgumentsError(f"{name}: {error}") from None
    value = function(**values)
    return await value if inspect.isawaitable(value) else value


def receiver(config: Config, runtime: Any) -> Any:
    """The endpoint for calls of other services; None where no secret is configured."""
    secret = str(config.plugins.get("proxy", {}).get("secret", ""))
    if not secret:
        return None
    from fastapi import Request, Response

    from skate.plugin import operations, routes

    verifier = Verifier(secret)

    async def take(request: Request) -> Response:
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > LONGEST:
            return routes.problem(413, "the call is too long")
        body = await request.body()
        when, nonce, signature = (request.headers.get(f"x-skate-{name}", "") for name in ("time", "nonce", "signature"))
        if why_not := verifier.refuses(when, nonce, signature, body):
            return routes.problem(401, why_not)
        try:
            asked = json.loads(body)
            name, arguments = str(asked["function"]), dict(asked["arguments"])
        except (ValueError, KeyError, TypeError):
            return routes.problem(400, "the call cannot be read")
        try:
            return Response(routes.envelope(await runtime.run_function(name, arguments)), media_type=routes.JSON)
        except ApiNotFoundError as error:
            return routes.problem(404, str(error))
        except ArgumentsError as error:
            return routes.problem(422, str(error))
        except Exception as error:  # noqa: BLE001  whatever the function raises, the other service gets an answer
            routes.log.error("%s failed", name, exc_info=error)
            operations.report(error, "", name)
            return routes.problem(500, f"Internal error; request {calls.request_id.get()}")

    # annotations are text here, and FastAPI would look for these names in the module
    take.__annotations__ = {"request": Request, "return": Response}
    return take
