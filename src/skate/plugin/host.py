"""A plugin's class at work: its instance, its methods as they are called, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import copy_context
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from skate.plugin.calls import Caller, caller
from skate.plugin.errors import ArgumentsError, PluginError

_END = object()


class _Here:
    """A plugin's own code runs. That it ends the process is an error like any other."""

    __slots__ = ("_before", "_host", "_method")

    def __init__(self, host: Host, method: str) -> None:
        self._host = host
        self._method = method

    def __enter__(self) -> None:
        self._before = caller.set(self._host.caller)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        caller.reset(self._before)
        if isinstance(error, SystemExit):
            raise self._host.ended(self._method, error) from error


class Host:
    """One instance of a plugin's class.

    Args:
        plugin: the plugin's name.
        cls: the class.
        config: the plugin's table, checked; the instance's attribute ``config``.
    """

    def __init__(self, plugin: str, cls: type, config: Any = None) -> None:
        self.plugin = plugin
        self.cls = cls
        self.deployment = f"{plugin}.{cls.__name__}"
        self.caller = Caller(plugin)
        self.caller.deployment = self.deployment
        with _Here(self, "__init__"):
            make: Any = cls.__new__
            instance = make(cls)
            instance._skate_plugin = plugin
            instance.config = config
            instance.__init__()
        self.instance = instance
        self._arguments: dict[str, Arguments] = {}

    async def start(self) -> None:
        """Have the plugin start. Raises what it raises."""
        await self._hook("on_start")

    async def stop(self) -> None:
        """Have the plugin end. Raises what it raises."""
        await self._hook("on_stop")

    async def _hook(self, name: str) -> None:
        hook = getattr(self.instance, name, None)
        if hook is not None:
            with _Here(self, name):
                value = hook()
                if inspect.isawaitable(value):
                    await value

    def ended(self, method: str, error: SystemExit) -> PluginError:
        """What stands for an exit, which is not the plugin's to decide."""
        return PluginError(f"{self.deployment}.{method} called sys.exit({error.code!r})")

    async def call(self, method: str, kwargs: Mapping[str, Any], *, checked: bool) -> Any:
        """Call a method: a coroutine function on this loop, others in a thread.

        Raises ArgumentsError unless the arguments are `checked` or fit; what the method raises.
        """
        function, values = self._prepared(method, kwargs, checked)
        before = caller.set(self.caller)  # as `_Here` does, and sooner
        try:
            if inspect.iscoroutinefunction(function):
                return await function(**values)
            value = await asyncio.to_thread(function, **values)
            return await value if inspect.isawaitable(value) else value
        except SystemExit as error:
            raise self.ended(method, error) from error
        except Exception as error:
            _sign(error, self.plugin)
            raise
        finally:
            caller.reset(before)

    async def stream(self, method: str, kwargs: Mapping[str, Any], *, checked: bool) -> AsyncIterator[Any]:
        """Call a method that is a generator, and give its items; plain generators run in a thread."""
        function, values = self._prepared(method, kwargs, checked)
        value = function(**values)
        if inspect.isawaitable(value):
            value = await value
        if hasattr(value, "__aiter__"):
            items: AsyncIterator[Any] = aiter(value)
        elif hasattr(value, "__iter__") and not isinstance(value, str | bytes | Mapping):
            items = _from_thread(iter(value))
        else:
            raise TypeError(f"{self.plugin}.{method} is a stream, but returned {type(value).__name__}: use `yield`")
        try:
            while True:
                # a generator runs in the context of whoever reads it, who is somebody else between two items
                try:
                    with _Here(self, method):
                        item = await anext(items, _END)
                except Exception as error:
                    _sign(error, self.plugin)
                    raise
                if item is _END:
                    return
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    def _prepared(
        self, method: str, kwargs: Mapping[str, Any], checked: bool
    ) -> tuple[Callable[..., Any], Mapping[str, Any]]:
        function = getattr(self.instance, method)
        if checked:
            return function, kwargs
        known = self._arguments.get(method)
        if known is None:
            known = self._arguments[method] = Arguments(f"{self.plugin}.{self.cls.__name__}.{method}", function)
        return function, known.fit(kwargs)


def _sign(error: BaseException, plugin: str) -> None:
    """Note whose error it is, for reports; the first who says so is right."""
    if not hasattr(error, "skate_plugin"):
        with contextlib.suppress(AttributeError):  # a class without a dictionary
            error.skate_plugin = plugin  # type: ignore[attr-defined]


def _next(items: Any) -> Any:
    return next(items, _END)


async def _from_thread(items: Any) -> AsyncIterator[Any]:
    context = copy_context()
    try:
        while (item := await asyncio.to_thread(context.run, _next, items)) is not _END:
            yield item
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            await asyncio.to_thread(context.run, close)


def hints(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's annotations, resolved where they are text. Raises TypeError that names the function."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        name = getattr(function, "__qualname__", function)
        raise TypeError(f"{name}: an annotation cannot be resolved: {error}. Is it imported at the top?") from None


class Arguments:
    """What a method takes from other plugins: dictionaries become the models that it asks for."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.signature = inspect.signature(function)
        known = hints(function)
        self.adapters = {
            parameter: TypeAdapter(known[parameter])
            for parameter in self.signature.parameters
            if parameter in known and _has_model(known[parameter])
        }
        self.declared = {
            parameter: each.default
            for parameter, each in self.signature.parameters.items()
            if isinstance(each.default, FieldInfo) or type(each.default).__module__ == "fastapi.params"
        }
        """Parameters such as ``limit: int = Query(10)``: what Python takes for the default only describes it."""

    def fit(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments as the method takes them. Raises ArgumentsError."""
        try:
            self.signature.bind(**kwargs)
        except TypeError as error:
            raise ArgumentsError(f"{self.name}{self.signature}: {error}") from None
        if not self.adapters and not self.declared:
            return kwargs
        values = dict(kwargs)
        for parameter, declared in self.declared.items():
            if parameter not in values:
                values[parameter] = self._default(parameter, declared)
        for parameter, adapter in self.adapters.items():
            if parameter in values and not isinstance(values[parameter], BaseModel):
                try:
                    values[parameter] = adapter.validate_python(values[parameter])
                except ValidationError as error:
                    problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
                    raise ArgumentsError(f"{self.name}: {parameter} does not fit: {problems}") from None
        return values

    def _default(self, parameter: str, declared: Any) -> Any:
        if not isinstance(declared, FieldInfo):
            raise ArgumentsError(f"{self.name}{self.signature}: {parameter} is what only an HTTP request brings")
        if declared.is_required():
            raise ArgumentsError(f"{self.name}{self.signature}: missing a required argument: {parameter!r}")
        return declared.get_default(call_default_factory=True, validated_data={})


def _has_model(kind: Any) -> bool:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return True
    return any(_has_model(inner) for inner in typing.get_args(kind))
