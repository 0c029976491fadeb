"""`import skate` is cheap, and brings nothing heavy with it; nor do the first names of it."""

from __future__ import annotations

import subprocess
import sys

LIMIT_MS = 60
# names are loaded on first use: these bring in what every program uses
IMPORT = "import skate; skate.init, skate.remote, skate.get, skate.put, skate.ObjectRef"
HEAVY = ("numpy", "asyncio", "cloudpickle", "click", "psutil", "joblib", "ray")


def run(code: str) -> str:
    # -I: neither the environment nor the user's site-packages may change the figure
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_skate_takes_less_than_60_ms() -> None:
    code = f"import time; start = time.perf_counter(); {IMPORT}; print(time.perf_counter() - start)"
    run(code)  # writes the bytecode, which an installed package already has
    best_ms = min(float(run(code)) for _ in range(7)) * 1000
    assert best_ms < LIMIT_MS, f"import skate takes {best_ms:.0f} ms; see python -X importtime"


def test_import_skate_leaves_heavy_modules_out() -> None:
    loaded = run(f"import sys; {IMPORT}; print(*[name for name in {HEAVY} if name in sys.modules])")
    assert loaded == "", f"import skate also imports {loaded}"


def test_star_names_are_reachable() -> None:
    """Every name that `dir(skate)` promises can be had, though each is loaded on first use."""
    run("import skate\nfor name in skate.__all__: getattr(skate, name)")
