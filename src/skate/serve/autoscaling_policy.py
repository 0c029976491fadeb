"""The usual policy under the name that Ray Serve has for it, for policies of a program's own to build on."""

from __future__ import annotations

from typing import Any

from skate.serve.scaling_config import AutoscalingContext


def replica_queue_length_autoscaling_policy(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As many replicas as make ``target_ongoing_requests`` for each; factors, delays and bounds come after it."""
    return ctx.total_num_requests / ctx.config.target_ongoing_requests, {}


default_autoscaling_policy = replica_queue_length_autoscaling_policy
