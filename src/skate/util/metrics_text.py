"""Metrics in the text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def text_of(rows: list[dict[str, Any]]) -> str:
    """The rows of `skate.util.metrics.snapshot` as text."""
    lines: list[str] = []
    for name in sorted({row["name"] for row in rows}):
        of_name = [row for row in rows if row["name"] == name]
        kind = of_name[0]["kind"]
        shown = f"ray_{name}_total" if kind == "counter" and not name.endswith("_total") else f"ray_{name}"
        lines.append(f"# HELP {shown} {_escaped(of_name[0]['description'], quotes=False)}")
        lines.append(f"# TYPE {shown} {kind}")
        for row in of_name:
            lines.extend(_lines(shown, row))
    return "".join(line + "\n" for line in lines)


def _lines(name: str, row: dict[str, Any]) -> Iterator[str]:
    tags = dict(row["tags"])
    if row["process"]:
        tags["WorkerId"] = row["process"]
    value = row["value"]
    if row["kind"] != "histogram":
        yield f"{name}{_labels(tags)} {_number(value)}"
        return
    for bound, count in value["buckets"].items():
        yield f"{name}_bucket{_labels({**tags, 'le': _number(bound)})} {count}"
    yield f"{name}_bucket{_labels({**tags, 'le': '+Inf'})} {value['count']}"
    yield f"{name}_sum{_labels(tags)} {_number(value['sum'])}"
    yield f"{name}_count{_labels(tags)} {value['count']}"


def _labels(tags: dict[str, str]) -> str:
    inside = ",".join(f'{key}="{_escaped(value)}"' for key, value in tags.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(text: str, quotes: bool = True) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    return repr(float(value))
