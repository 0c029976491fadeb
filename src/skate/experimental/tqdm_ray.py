"""Progress bars for tasks and actors, with the interface of tqdm.

In the driver a bar is tqdm's, if that is installed. In a worker it is a line from time to time, which reaches the
driver as all that workers print does: bars of several processes cannot write over each other.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from skate.core import engine as engines

__all__ = ["instance", "safe_print", "tqdm"]


class tqdm:
    """A progress bar.

    Args:
        iterable: what to iterate over; each item is one step.
        desc: the text before the bar.
        total: how many steps; the length of `iterable` if it has one; None: not known.
        unit: what a step is; "it" if None.
        position: which line of the screen, from 0, when there are several.
        flush_interval_s: least seconds between two lines of a worker; 1 if None.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str | None = None,
        total: int | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None:
        if total is None and iterable is not None:
            with contextlib.suppress(TypeError, AttributeError):
                total = len(iterable)  # type: ignore[arg-type]
        self._iterable = iterable
        self._desc = desc or ""
        self._total = total
        self._unit = unit or "it"
        self._x = 0
        self._closed = False
        self._interval = 1.0 if flush_interval_s is None else flush_interval_s
        self._shown = 0.0
        self._bar = None if _in_worker() else _bars.bar(self._desc, total, self._unit, position)

    def set_description(self, desc: str) -> None:
        """Change the text before the bar."""
        self._desc = desc
        if self._bar is not None:
            self._bar.set_description(desc)
        self._show()

    def update(self, n: int = 1) -> None:
        """So many steps more are done."""
        self._x += n
        self._show()

    def refresh(self) -> None:
        """Show how far it is."""
        self._show()

    def close(self) -> None:
        """Show the end; nothing more will come."""
        if not self._closed:
            self._closed = True
            self._show(now=True)
            if self._bar is not None:
                _bars.close(self._bar)

    @property
    def total(self) -> int | None:
        """How many steps there are."""
        return self._total

    @total.setter
    def total(self, total: int | None) -> None:
        self._total = total
        if self._bar is not None:
            self._bar.total = total

    @property
    def n(self) -> int:
        """How many steps are done."""
        return self._x

    @n.setter
    def n(self, n: int) -> None:
        self._x = n

    def __iter__(self) -> Iterator[Any]:
        if self._iterable is None:
            raise ValueError("No iterable provided")
        for item in self._iterable:
            self.update(1)
            yield item

    def _show(self, now: bool = False) -> None:
        if self._bar is not None:
            self._bar.n = self._x
            self._bar.refresh() if now else self._bar.update(0)
            return
        moment = time.monotonic()
        if now or moment - self._shown >= self._interval:
            self._shown = moment
            print(self._line(), flush=True)

    def _line(self) -> str:
        head = f"{self._desc}: " if self._desc else ""
        if not self._total:
            return f"{head}{self._x}{self._unit}"
        return f"{head}{100 * self._x // self._total:3d}% {self._x}/{self._total} {self._unit}"


class _Bars:
    """The bars of this process; `hide_bars` and `unhide_bars` make place for other output."""

    def __init__(self) -> None:
        self._live: list[Any] = []

    def bar(self, desc: str, total: int | None, unit: str, position: int | None) -> Any:
        try:
            from tqdm import tqdm as real
        except ImportError:
            return None
        made: Any = real(desc=desc, total=total, unit=unit, position=position)
        self._live.append(made)
        return made

    def close(self, bar: Any) -> None:
        bar.close()
        if bar in self._live:
            self._live.remove(bar)

    def hide_bars(self) -> None:
        """Clear the bars from the screen."""
        for bar in self._live:
            bar.clear()

    def unhide_bars(self) -> None:
        """Draw them again."""
        for bar in self._live:
            bar.refresh()


_bars = _Bars()


def instance() -> _Bars:
    """The bars of this process."""
    return _bars


def safe_print(*args: Any, **kwargs: Any) -> None:
    """`print` with the bars out of the way."""
    _bars.hide_bars()
    try:
        builtins.print(*args, **kwargs)
        (kwargs.get("file") or sys.stdout).flush()
    finally:
        _bars.unhide_bars()


def _in_worker() -> bool:
    engine = engines.running()
    return engine is not None and not engine.context().driver
