"""`@multiplexed`: a replica keeps several models, and loads and drops them as requests ask for them.

A model that is dropped while a request uses it stays whole until that request is done.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

from skate.serve import context, measures
from skate.serve.receiver import is_receiver

Load = Callable[..., Coroutine[Any, Any, Any]]
UNLIMITED = -1
MARK = "_serve_multiplexed"
"""Attribute of functions that `multiplexed` has made."""

logger = logging.getLogger("skate.serve")


class Entry:
    """A model, and the tasks that have asked for it and are not done."""

    __slots__ = ("loading", "model", "tasks")

    def __init__(self) -> None:
        self.model: Any = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.loading: asyncio.Task[None] | None = None

    def lend(self) -> None:
        """The task that runs uses the model, or will."""
        task = asyncio.current_task()
        if task is not None and task not in self.tasks:
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)


class Models:
    """The models of one loading function (of one object where it is a method) in one event loop."""

    def __init__(self, load: Callable[[str], Coroutine[Any, Any, Any]], limit: int) -> None:
        self._load = load
        self._limit = limit
        self._loaded: OrderedDict[str, Entry] = OrderedDict()
        """Least recently used first."""
        self._loading: dict[str, Entry] = {}
        self._one_at_a_time = asyncio.Lock()
        self._farewells: set[asyncio.Task[None]] = set()
        self.replica = context.current_replica()
        _all.add(self)

    def ids(self) -> list[str]:
        """The models that are here, or soon will be."""
        return [*self._loaded, *self._loading]

    def __len__(self) -> int:
        return len(self._loaded)

    async def get(self, model_id: str) -> Any:
        """The model, loaded if need be; TypeError and ValueError for ids that are none, and what loading raises."""
        if not isinstance(model_id, str):
            raise TypeError(f"The model ID must be a string, not {model_id!r}.")
        if not model_id:
            raise ValueError(
                "The model ID cannot be empty: set multiplexed_model_id in the handle's options, or the "
                "header serve_multiplexed_model_id."
            )
        measures.model_asked()
        entry = self._loaded.get(model_id)
        if entry is not None:
            self._loaded.move_to_end(model_id)
            entry.lend()
            return entry.model
        entry = self._loading.get(model_id)
        if entry is None:
            entry = self._loading[model_id] = Entry()
            entry.loading = asyncio.create_task(self._fetch(model_id, entry))
            entry.loading.add_done_callback(lambda done: self._fetched(model_id, done))
            changed(self.replica)
        entry.lend()  # before it is there, or the next load might take its place before we have it
        # One load serves all that wait for it; it goes on when one of them is cancelled.
        await asyncio.shield(cast("asyncio.Task[None]", entry.loading))
        return entry.model

    async def _fetch(self, model_id: str, entry: Entry) -> None:
        async with self._one_at_a_time:  # two at a time might not fit into memory
            while 0 < self._limit <= len(self._loaded):
                await self._unload(self._least_wanted())
            started = time.perf_counter()
            entry.model = await self._load(model_id)
            measures.model_loaded(time.perf_counter() - started)
            self._loaded[model_id] = entry

    def _fetched(self, model_id: str, task: asyncio.Task[None]) -> None:
        del self._loading[model_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Loading model %r failed: %r", model_id, error)
        changed(self.replica)

    def _least_wanted(self) -> str:
        """The least recently used one, if possible of those that nobody uses."""
        return next((name for name, entry in self._loaded.items() if not entry.tasks), next(iter(self._loaded)))

    async def _unload(self, model_id: str) -> None:
        entry = self._loaded.pop(model_id)
        changed(self.replica)
        users = [task for task in entry.tasks if task is not asyncio.current_task()]
        if not users:
            await farewell(model_id, entry)
            return
        later = asyncio.create_task(_when_done(users, model_id, entry))
        self._farewells.add(later)
        later.add_done_callback(self._farewells.discard)

    async def unload_all(self) -> None:
        """Drop all models, as at a replica's end."""
        async with self._one_at_a_time:
            while self._loaded:
                entry_id, entry = self._loaded.popitem(last=False)
                await farewell(entry_id, entry)
        if self._farewells:
            await asyncio.wait(set(self._farewells))
        changed(self.replica)


async def _when_done(users: list[asyncio.Task[Any]], model_id: str, entry: Entry) -> None:
    await asyncio.wait(users)
    users.clear()
    await farewell(model_id, entry)


async def farewell(model_id: str, entry: Entry) -> None:
    """Drop a model. An async ``__del__`` is awaited, another runs in a thread, as it may take its time."""
    started = time.perf_counter()
    model, entry.model = entry.model, None
    end = getattr(type(model), "__del__", None)
    try:
        if inspect.iscoroutinefunction(end):
            try:
                await end(model)
            finally:
                _never_again(model)
        elif end is not None:
            last = [model]
            del model
            await asyncio.get_running_loop().run_in_executor(None, last.clear)
    except Exception:  # the next model must have its place whatever this one's end does
        logger.exception("Unloading model %r failed", model_id)
    measures.model_unloaded(time.perf_counter() - started)


def _never_again(model: Any) -> None:
    """Python would call the coroutine function once more, and nobody would await it."""
    kind = type(model)
    try:
        model.__class__ = type(kind.__name__, (kind,), {"__slots__": (), "__del__": lambda self: None})
    except TypeError:  # a class that is closed to this: then there is a warning
        logger.debug("%s has an async __del__, which will be called twice", kind.__name__)


# ------------------------------------------------------------- of the process

_all: WeakSet[Models] = WeakSet()
_watchers: list[Callable[[list[str]], None]] = []


def model_ids(replica: Any = None) -> list[str]:
    """The models that a replica has loaded or is loading, sorted; None: those that were loaded outside of replicas."""
    return sorted({name for models in list(_all) if models.replica is replica for name in models.ids()})


def watch(watcher: Callable[[list[str]], None]) -> None:
    """Have `watcher` called with `model_ids` whenever they change, in the event loop where they do."""
    _watchers.append(watcher)


def changed(replica: Any) -> None:
    """Tell routers, and those who watch."""
    names = model_ids(replica)
    measures.models_here(names)
    for watcher in _watchers:
        watcher(names)
    if replica is not None:
        replica.tell_models(names)


async def unload_all(replica: Any = None) -> None:
    """Drop all models of a replica that ends."""
    for models in list(_all):
        if models.replica is replica:
            await models.unload_all()


context.farewells.append(unload_all)


# ------------------------------------------------------------- the decorator


class Multiplexing:
    """A function that loads models, and what it has loaded."""

    def __init__(self, function: Load, limit: int) -> None:
        self.__setstate__((function, limit))

    def __getstate__(self) -> tuple[Load, int]:
        return self.function, self.limit

    def __setstate__(self, state: tuple[Load, int]) -> None:
        self.function, self.limit = state
        self._attribute = f"_serve_models_of_{self.function.__name__}"
        self._own: Places = WeakKeyDictionary()

    async def get(self, *args: Any) -> Any:
        """The model that the last argument names; the one before it is the object, where the function is a method."""
        instance = args[0] if is_receiver(self.function, args) else None
        ids = args if instance is None else args[1:]
        if len(ids) != 1:
            raise TypeError(
                f"{self.function.__qualname__} is multiplexed: it takes exactly one argument, the model ID, "
                f"not {len(ids)}."
            )
        places = self._own if instance is None else self._places(instance)
        loop = asyncio.get_running_loop()
        models = places.get(loop)
        if models is None:
            function = self.function if instance is None else self.function.__get__(instance)
            models = places[loop] = Models(function, self.limit)
        return await models.get(ids[0])

    def _places(self, instance: Any) -> Places:
        found: Places | None = getattr(instance, self._attribute, None)
        if found is None:
            found = WeakKeyDictionary()
            setattr(instance, self._attribute, found)
        return found


Places = WeakKeyDictionary[asyncio.AbstractEventLoop, Models]


def multiplexed(func: Load | None = None, max_num_models_per_replica: int = 3) -> Any:
    """Keep what an async function loads: called with a model's id, it gives the model, and loads it the first time.

    When there are more models than may be, the one that was not used for longest is unloaded: its ``__del__`` runs,
    awaited if it is async, once no request uses the model any more. Models are loaded one after the other, and one
    load serves all that ask meanwhile. Requests with a model's id (`get_multiplexed_model_id`) go to replicas that
    have the model, if there are any.

    Args:
        max_num_models_per_replica: models, at most; -1: no limit.

    Raises TypeError for what is not ``async def`` with one argument (beside ``self``), or for a number that is no int;
    ValueError for one that is neither positive nor -1.

    ::

        @serve.multiplexed(max_num_models_per_replica=2)
        async def get_model(self, model_id: str) -> Model: ...

        model = await self.get_model(serve.get_multiplexed_model_id())
    """
    if not isinstance(max_num_models_per_replica, int):
        raise TypeError("max_num_models_per_replica must be an integer.")
    if max_num_models_per_replica != UNLIMITED and max_num_models_per_replica <= 0:
        raise ValueError("max_num_models_per_replica must be positive, or -1 for no limit.")
    if func is not None:
        return _decorated(func, max_num_models_per_replica)
    return lambda func: _decorated(func, max_num_models_per_replica)


def _decorated(function: Any, limit: int) -> Any:
    if not callable(function):
        raise TypeError("The `multiplexed` decorator must be used with a function or method.")
    if not inspect.iscoroutinefunction(function):
        raise TypeError("@serve.multiplexed can only be used to decorate async functions or methods.")
    if not 1 <= len(inspect.signature(function).parameters) <= 2:
        raise TypeError("@serve.multiplexed is for functions and methods with one argument, 'model_id: str'.")
    multiplexing = Multiplexing(function, limit)

    @wraps(function)
    async def wrapper(*args: Any) -> Any:
        return await multiplexing.get(*args)

    setattr(wrapper, MARK, True)
    return wrapper
