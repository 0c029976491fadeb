"""The readable result: one line per row, with ratio, spread, goal and verdict."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from statistics import median

from rows import ROWS, UNITS, Row, Samples, middle


def machine() -> dict[str, str]:
    """What a reader must know of the machine to judge the figures."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": f"{os.cpu_count()} x {model}",
        "memory": f"{total / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def number(value: float) -> str:
    """Three figures that matter, and no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(samples: Samples, column: str, row: Row) -> str:
    values = samples.get(column, {}).get(row.figure)
    if not values:
        return "-"
    scaled = [value * UNITS[row.unit] for value in values]
    if len(scaled) == 1:
        return number(scaled[0])
    return f"{number(median(scaled))} ({number(min(scaled))}..{number(max(scaled))})"


def baselines(samples: Samples, row: Row, columns: list[str]) -> str:
    shown = []
    for column in columns:
        value = middle(samples, column, row.figure)
        if value is not None:
            shown.append(f"{column} {number(value * UNITS[row.unit])}")
    return ", ".join(shown) or "-"


def verdict(samples: Samples, row: Row, own: str, rival: str) -> str:
    if not row.goals or row.figure not in samples.get(own, {}):
        return ""
    found = [(goal.met(samples, own, rival), goal.words) for goal in row.goals]
    missed = [words for met, words in found if met is False]
    if missed:
        return "NOT MET" if len(row.goals) == 1 else "NOT MET: " + ", ".join(missed)
    open_goals = [words for met, words in found if met is None]
    return "not compared: " + ", ".join(open_goals) if open_goals else "met"


def lines(samples: Samples, own: str, rival: str, others: list[str], rows: Sequence[Row] = ROWS) -> list[list[str]]:
    table = [["", "unit", own, rival, f"{rival}/{own}", "baselines", "goal", "verdict"]]
    for row in rows:
        if not any(row.figure in samples.get(column, {}) for column in (own, rival)):
            continue
        ours, theirs = middle(samples, own, row.figure), middle(samples, rival, row.figure)
        comparable = ours is not None and theirs is not None and ours > 0
        ratio = f"{theirs / ours:.1f}x" if comparable else "-"  # type: ignore[operator]
        goal = ", ".join(goal.words for goal in row.goals)
        table.append(
            [
                row.title,
                row.unit,
                cell(samples, own, row),
                cell(samples, rival, row),
                ratio,
                baselines(samples, row, others),
                goal,
                verdict(samples, row, own, rival),
            ]
        )
    return table


def render(table: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    text = []
    for place, line in enumerate(table):
        padded = (word.ljust(width) for word, width in zip(line, widths, strict=True))
        text.append("  ".join(padded).rstrip())
        if place == 0:
            text.append(rule)
    return "\n".join(text)
