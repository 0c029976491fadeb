"""Answers that are kept: in memory, or in files that survive the service."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from skate.configuration import CacheConfig
from skate.plugin.encoding import encode, plain

USE, BYPASS, REFRESH = "use", "bypass", "refresh"
ACTIONS = (USE, BYPASS, REFRESH)


class Kept(NamedTuple):
    """An answer that is kept."""

    key: str
    body: bytes
    created: float
    """Seconds since the epoch."""
    expires: float | None
    """Seconds since the epoch; None: never."""

    def is_old(self) -> bool:
        """Whether its time is up."""
        return self.expires is not None and self.expires <= time.time()


class Store(Protocol):
    """Where answers are kept."""

    def get(self, key: str) -> Kept | None:
        """An answer whose time is not up."""

    def put(self, kept: Kept) -> None:
        """Keep an answer; the oldest goes if there are too many."""

    def all(self) -> dict[str, Kept]:
        """What is kept."""


class MemoryStore:
    """Answers in this process."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def get(self, key: str) -> Kept | None:
        """See `Store`."""
        kept = self._kept.get(key)
        if kept is not None and kept.is_old():
            del self._kept[key]
            return None
        return kept

    def put(self, kept: Kept) -> None:
        """See `Store`."""
        self._kept.pop(kept.key, None)
        self._kept[kept.key] = kept
        if len(self._kept) > self.most:
            for key in [key for key, each in self._kept.items() if each.is_old()]:
                del self._kept[key]
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)

    def all(self) -> dict[str, Kept]:
        """See `Store`."""
        return {key: kept for key, kept in self._kept.items() if not kept.is_old()}


class FileStore:
    """Answers in a folder, a JSON file each. What cannot be read counts as not there."""

    def __init__(self, folder: str, most: int) -> None:
        self.folder = Path(folder)
        self.most = most

    def _path(self, key: str) -> Path:
        return self.folder / (hashlib.sha256(key.encode()).hexdigest() + ".json")

    def get(self, key: str) -> Kept | None:
        """See `Store`."""
        path = self._path(key)
        kept = self._read(path)
        if kept is None or kept.key != key:
            return None
        if kept.is_old():
            path.unlink(missing_ok=True)
            return None
        return kept

    def _read(self, path: Path) -> Kept | None:
        try:
            row = json.loads(path.read_bytes())
            return Kept(row["key"], row["body"].encode(), row["created"], row["expires"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def put(self, kept: Kept) -> None:
        """See `Store`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(encode({**kept._asdict(), "body": kept.body.decode()}))
            os.replace(name, self._path(kept.key))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        files = sorted(self.folder.glob("*.json"), key=_when)
        for path in files[: max(0, len(files) - self.most)]:
            path.unlink(missing_ok=True)

    def all(self) -> dict[str, Kept]:
        """See `Store`."""
        found = filter(None, map(self._read, self.folder.glob("*.json")))
        return {kept.key: kept for kept in found if not kept.is_old()}


def _when(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


class CacheContext:
    """What a ``key_builder`` may look at."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def keys(self) -> list[str]:
        """The keys that are there."""
        return list(self._store.all())

    def metadata(self) -> dict[str, Kept]:
        """What is there, by key."""
        return self._store.all()


class RouteCache:
    """The cache of one route."""

    def __init__(self, config: CacheConfig, store: Store, path: str, options: Mapping[str, Any]) -> None:
        self.store = store
        self.path = path
        self.ttl: int = options.get("ttl") or config.ttl
        self.builder: Callable[..., Any] | None = options.get("key_builder")

    def key(self, request: Any, kwargs: Mapping[str, Any]) -> str:
        """The key of a request: method, path and arguments, or what the route's own function makes of it."""
        if self.builder is None:
            arguments = json.dumps(plain(dict(kwargs)), sort_keys=True)
            return f"{request.method} {request.url.path} {hashlib.sha256(arguments.encode()).hexdigest()}"
        arguments_taken = len(inspect.signature(self.builder).parameters)
        made = self.builder(*(request, CacheContext(self.store), dict(kwargs))[:arguments_taken])
        return f"{self.path} {made}"

    def get(self, key: str) -> bytes | None:
        """The body that is kept, if one is."""
        kept = self.store.get(key)
        return kept.body if kept else None

    def put(self, key: str, body: bytes) -> None:
        """Keep a body."""
        now = time.time()
        self.store.put(Kept(key, body, now, None if self.ttl == -1 else now + self.ttl))


def make_store(config: CacheConfig) -> Store:
    """The store that is configured."""
    if config.mode == "file":
        return FileStore(config.file_dir, config.max_size)
    return MemoryStore(config.max_size)
