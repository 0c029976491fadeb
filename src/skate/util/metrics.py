"""Metrics that programs define: `Counter`, `Gauge`, `Histogram`.

They may be made and used in the driver, in tasks and in actors, under one name everywhere. `snapshot` gives the values
of the whole session, `prometheus_text` in the form that Prometheus reads. What a worker records reaches the session
within about half a second, by way of an actor that is started when a worker first records something.
"""

from __future__ import annotations

import re
import warnings
from typing import Any, Self

from skate.util.metrics_registry import Kind, Series, registry

__all__ = ["Counter", "Gauge", "Histogram", "Metric", "prometheus_text", "snapshot"]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


class Metric:
    """What the three kinds have in common.

    Args:
        name: letters, digits and underscores, not a digit first; another one is warned of, and nothing is recorded.
        description: what it measures.
        tag_keys: names of the tags that every value has.

    Raises ValueError for an empty name, or one that another kind of metric has; TypeError when `tag_keys` is no tuple
    of strings.
    """

    _kind: Kind

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        keys = tag_keys or ()
        if not isinstance(keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(keys)}")
        for key in keys:
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
        if not name:
            raise ValueError("A metric needs a name that is not empty.")
        self._discard_metric = not _NAME.fullmatch(name)
        if self._discard_metric:
            text = f"{name!r} is no name for a metric (letters, digits, _; no digit first): nothing will be recorded."
            warnings.warn(text, UserWarning, stacklevel=3)
        elif ":" in name:
            text = f"The name of the metric {name} has a colon, which is not for names of programs."
            warnings.warn(text, FutureWarning, stacklevel=3)
        self._name = name
        self._description = description
        self._tag_keys = keys
        self._default_tags: dict[str, str] = {}

    def _register(self, bounds: tuple[float, ...] = ()) -> None:
        if not self._discard_metric:
            registry().define(Series(self._name, self._kind, self._description, self._tag_keys, bounds))

    def set_default_tags(self, default_tags: dict[str, str]) -> Self:
        """Values of tags for when a call does not give them; returns the metric.

        Raises ValueError for a tag that is not in `tag_keys`, TypeError for a value that is not a string.
        """
        self._check_tags(default_tags)
        self._default_tags = default_tags
        return self

    def _check_tags(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}: {self._name} has {list(self._tag_keys)}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")

    def _record(self, value: float, tags: dict[str, str] | None) -> None:
        if not isinstance(value, int | float):
            raise TypeError(f"value must be int or float, got {type(value)}.")
        if tags:
            self._check_tags(tags)
        given = {**self._default_tags, **(tags or {})}
        missing = [key for key in self._tag_keys if key not in given]
        if missing:
            raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        if not self._discard_metric:
            registry().record(self._name, tuple(given[key] for key in self._tag_keys), value)

    @property
    def info(self) -> dict[str, Any]:
        """Name, description, ``tag_keys`` and ``default_tags``."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": self._default_tags,
        }

    def _arguments(self) -> tuple[Any, ...]:
        return self._name, self._description, self._tag_keys

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self._arguments(), self._default_tags)


class Counter(Metric):
    """Counts up."""

    _kind = "counter"

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        super().__init__(name, description, tag_keys)
        self._register()

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Add `value`.

        Raises ValueError for one that is not above 0, for missing and for unknown tags; TypeError for what is no
        number.
        """
        if isinstance(value, int | float) and value <= 0:
            raise ValueError(f"value must be >0, got {value}")
        self._record(value, tags)


class Gauge(Metric):
    """Holds the value that was set last, for each process."""

    _kind = "gauge"

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        super().__init__(name, description, tag_keys)
        self._register()

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        """Set it; None changes nothing. Raises as `Counter.inc` does for tags and types."""
        if value is not None:
            self._record(value, tags)


class Histogram(Metric):
    """Counts values by size.

    Args:
        boundaries: upper ends of the buckets, above 0, rising.

    Raises ValueError when they are missing, or one is not above 0.
    """

    _kind = "histogram"

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: list[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(name, description, tag_keys)
        if not boundaries:
            raise ValueError('A histogram needs boundaries: Histogram("name", boundaries=[1.0, 2.0])')
        for index, boundary in enumerate(boundaries):
            if boundary <= 0:
                raise ValueError(f"Invalid `boundaries` argument at index {index}, {boundaries}: it must be above 0.")
        self.boundaries = boundaries
        self._register(tuple(sorted(boundaries)))

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        """Count `value`. Raises as `Counter.inc` does for tags and types."""
        self._record(value, tags)

    @property
    def info(self) -> dict[str, Any]:
        """As of all metrics, and ``boundaries``."""
        return {**super().info, "boundaries": self.boundaries}

    def _arguments(self) -> tuple[Any, ...]:
        return self._name, self._description, self.boundaries, self._tag_keys


def _rebuild(kind: type[Metric], arguments: tuple[Any, ...], default_tags: dict[str, str]) -> Metric:
    return kind(*arguments).set_default_tags(default_tags)


def snapshot() -> list[dict[str, Any]]:
    """The values of all metrics of the session, a dict for each metric and set of tags.

    Keys: ``name``, ``kind``, ``description``, ``tags``, ``value``, and ``process`` (the id of a worker, "driver" for
    this process; "" where processes are summed up, as they are but for gauges). The value of a histogram is a dict:
    ``count``, ``sum``, and ``buckets``, how many values were at most so large, by boundary.
    """
    return registry().snapshot()


def prometheus_text() -> str:
    """The metrics of the session in Prometheus' text format, under the names that Ray gives them (``ray_`` before)."""
    from skate.util.metrics_text import text_of

    return text_of(snapshot())
