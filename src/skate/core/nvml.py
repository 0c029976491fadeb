"""What NVIDIA's driver knows of this machine's GPUs, asked through its library NVML.

Through the package nvidia-ml-py where it is installed (the extra ``gpu``), directly otherwise. Imported only where the
driver is, for ctypes takes its time.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import warnings
from typing import Any, NamedTuple

LIBRARY = "libnvidia-ml.so.1"


class Gpus(NamedTuple):
    """The GPUs of this machine."""

    number: int = 0
    model: str = ""
    """Of the first, as `accelerator_type` has it; empty: not known."""


def detect() -> Gpus:
    """Ask NVML what there is: nothing when it cannot say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old package of that name tells to install another
            nvml = importlib.import_module("pynvml")
    except ImportError:
        return _ask_library()
    return _ask_module(nvml)


def _ask_module(nvml: Any) -> Gpus:
    """Through the package."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return Gpus()
    try:
        count = int(nvml.nvmlDeviceGetCount())
        name = nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0)) if count else ""
    except nvml.NVMLError:
        return Gpus()
    finally:
        nvml.nvmlShutdown()
    return Gpus(count, model(name.decode() if isinstance(name, bytes) else name))


def _ask_library() -> Gpus:
    """Through the library itself, whose functions return 0 when all is well."""
    try:
        nvml = ctypes.CDLL(LIBRARY)
        if nvml.nvmlInit_v2():
            return Gpus()
    except (OSError, AttributeError):  # no library, or one of another age
        return Gpus()
    count, device, name = ctypes.c_uint(), ctypes.c_void_p(), ctypes.create_string_buffer(96)
    try:
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) or not count.value:
            return Gpus()
        if nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)):
            return Gpus(count.value)
        if nvml.nvmlDeviceGetName(device, name, len(name)):
            return Gpus(count.value)
    finally:
        nvml.nvmlShutdown()
    return Gpus(count.value, model(name.value.decode(errors="replace")))


def model(name: str) -> str:
    """A product's name as short as Ray has it: ``NVIDIA A100-SXM4-40GB`` is an ``A100``.

    The brand is left out, and so is all that follows the first word with a digit in it. Where the model is not in
    capitals (``NVIDIA GeForce RTX 5090``), only the brand is.
    """
    words: list[str] = []
    for word in name.split()[1:]:
        capitals = re.split("[^A-Z0-9]", word, maxsplit=1)[0]
        words.append(capitals)
        if any(map(str.isdigit, capitals)):
            short = "-".join(words)
            if len(short) > 1:
                return short
        if capitals != word:
            break
    return name.removeprefix("NVIDIA ").strip().replace(" ", "-")
