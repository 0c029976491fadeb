"""`import skate` is cheap, and brings nothing heavy with it; nor do the first names of it."""

from __future__ import annotations

import subprocess
import sys

LIMIT_MS = 60
"""Of processor time: another program that runs beside the test costs nothing."""
YARDSTICK = "import argparse, http.client, logging.config, decimal, email.message, subprocess"
AS_MUCH = 1.7
"""Times what the yardstick takes at this moment: a processor that others use runs slower, for both."""
# names are loaded on first use: these bring in what every program uses
IMPORT = "import skate; skate.init, skate.remote, skate.get, skate.put, skate.ObjectRef"
HEAVY = ("numpy", "asyncio", "cloudpickle", "click", "psutil", "joblib", "ray")


def run(code: str) -> str:
    # -I: neither the environment nor the user's site-packages may change the figure
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_skate_takes_less_than_60_ms() -> None:
    def spent_ms(what: str) -> float:
        return float(run(f"from time import process_time as t; start = t(); {what}; print((t() - start) * 1000)"))

    spent_ms(IMPORT)  # writes the bytecode, which an installed package already has
    ours, yardstick = zip(*((spent_ms(IMPORT), spent_ms(YARDSTICK)) for _ in range(7)), strict=True)
    limit_ms = max(LIMIT_MS, AS_MUCH * min(yardstick))
    assert min(ours) < limit_ms, f"import skate takes {min(ours):.0f} ms; see python -X importtime"


def test_import_skate_leaves_heavy_modules_out() -> None:
    loaded = run(f"import sys; {IMPORT}; print(*[name for name in {HEAVY} if name in sys.modules])")
    assert loaded == "", f"import skate also imports {loaded}"


def test_star_names_are_reachable() -> None:
    """Every name that `dir(skate)` promises can be had, though each is loaded on first use."""
    run("import skate\nfor name in skate.__all__: getattr(skate, name)")
