"""What `ray.serve.utils` has."""

from __future__ import annotations

from typing import Any


def get_trace_context() -> Any:
    """The context of OpenTelemetry that the request belongs to, if the program uses that; None without one."""
    try:
        from opentelemetry import context, trace
    except ImportError:
        return None
    span = trace.get_current_span()
    return context.get_current() if span.get_span_context().is_valid else None
