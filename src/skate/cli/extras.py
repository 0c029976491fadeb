"""What commands need beyond a plain install."""

from __future__ import annotations

import importlib.util


def need(extra: str, *modules: str) -> None:
    """ImportError that names the extra, where one of these modules is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(f"This command needs {', '.join(missing)}: pip install 'skate-ray[{extra}]'")
