"""GPUs: how many there are, of which model, and by which names a program may see them.

Inside, the GPUs of a node are numbers from 0 on. Where the program was started with CUDA_VISIBLE_DEVICES, number n
stands for the n-th name there; names may be numbers or UUIDs, as NVIDIA has them.

How many there are is asked only where NVIDIA's driver is (`skate.core.nvml`): others pay two look-ups of a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from skate.core.settings import Settings

VISIBLE = "CUDA_VISIBLE_DEVICES"
EMPTY_ON_ZERO = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"
"""Set to 1: who holds no GPU is shown none, rather than those that the program sees."""
LEAVE_ALONE = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
"""Set to 1: CUDA_VISIBLE_DEVICES is never touched."""
LABEL = "ray.io/accelerator-type"
DRIVERS = ["/dev/nvidiactl", "/dev/dxg"]
"""Where NVIDIA's driver is to be found, the second in WSL. Without it there is nothing to ask."""


def visible(environ: Mapping[str, str]) -> list[str] | None:
    """The names of the GPUs that a process may see; None: all there are."""
    told = environ.get(VISIBLE)
    if told is None:
        return None
    return [] if told in ("", "NoDevFiles") else told.split(",")


def named(numbers: Sequence[int], names: list[str] | None) -> Sequence[int | str]:
    """GPUs by name: those that the process was to see from the start, or their numbers when it could see all.

    A runtime environment may show its workers fewer than the node has; then they see those, as in Ray.
    """
    if names is None or not numbers:
        return numbers
    return [names[number] for number in numbers] if max(numbers) < len(names) else names


def shown(held: Sequence[int | str], environ: Mapping[str, str]) -> str | None:
    """What CUDA_VISIBLE_DEVICES is to be for a call that holds these GPUs; None: as the process had it."""
    if _is_set(environ, LEAVE_ALONE) or not (held or _is_set(environ, EMPTY_ON_ZERO)):
        return None
    return ",".join(map(str, held))


def _is_set(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").lower() in ("1", "true")


def check(count: float | None, of: str) -> None:
    """ValueError when a node is to have more GPUs than CUDA_VISIBLE_DEVICES shows."""
    names = visible(os.environ)
    if count and names is not None and count > len(names):
        raise ValueError(
            f"{of}: num_gpus={count:g}, but {VISIBLE}={os.environ[VISIBLE]!r} shows {len(names)}. Ask for fewer, or "
            f"unset {VISIBLE}."
        )


def complete(settings: Settings) -> Settings:
    """The same with the GPUs of this machine, if their number was left open, and with their model, if they count.

    Raises ValueError when CUDA_VISIBLE_DEVICES shows fewer than were asked for.
    """
    check(settings.num_gpus, "init")
    for node in settings.nodes:
        check(node.num_gpus, "init")
    if settings.num_gpus == 0 or not any(map(os.path.exists, DRIVERS)):
        return settings
    from skate.core.nvml import detect

    found = detect()
    count = settings.num_gpus
    if count is None:
        names = visible(os.environ)
        count = found.number if names is None else min(found.number, len(names))
    if not count or not found.model:
        return replace(settings, num_gpus=count)
    resources = {**settings.resources, f"accelerator_type:{found.model}": 1}
    return replace(settings, num_gpus=count, resources=resources, labels={LABEL: found.model, **settings.labels})
