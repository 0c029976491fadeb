"""What tests of services of plugins share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skate.plugin import loading, marks, settings

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "plugin_service"
Write = Callable[..., None]


def forget(folder: Path) -> None:
    """Forget the modules in a folder, and their plugins."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
            marks.REGISTERED[:] = [cls for cls in marks.REGISTERED if cls.__module__ != name]
    loading.REGISTRY = loading.Registry()
    settings.use(None)


def data(response: Any) -> Any:
    """What is in the envelope of an answer that went well."""
    assert response.status_code == 200, response.text
    return response.json()["data"]
