"""The leak check of conftest.py sees what it is there for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LEAKY = {
    "process": "import subprocess\nkept.append(subprocess.Popen(['sleep', '30']))",
    "zombie": "import os\nif os.fork() == 0: os._exit(0)",
    "file descriptor": "import os\nkept.append(os.open('/dev/null', os.O_RDONLY))",
    "thread": ("import threading, time\nt = threading.Thread(target=time.sleep, args=[3], name='stray')\nt.start()"),
    "session directory": "import os\nos.mkdir(f'skate-{os.getpid()}')",
}


def run_test(body: str, directory: Path) -> str:
    """Run a test with this body under a copy of our conftest.py; returns what pytest prints."""
    conftest = Path(__file__).with_name("conftest.py").read_text()
    assert "PATIENCE = 20.0" in conftest
    (directory / "conftest.py").write_text(conftest.replace("PATIENCE = 20.0", "PATIENCE = 0.1"))
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    text = f"kept = []\ndef test_it(tmp_path):\n{indented}\ndef teardown_module():\n"
    text += "    for each in kept:\n        getattr(each, 'kill', int)()\n"
    (directory / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=."]
    done = subprocess.run(
        command,
        cwd=directory,
        env={"TMPDIR": str(directory), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", LEAKY)
def test_leak_is_named(kind: str, tmp_path: Path) -> None:
    printed = run_test(LEAKY[kind], tmp_path)
    assert "left behind" in printed
    assert kind in printed


def test_clean_test_passes(tmp_path: Path) -> None:
    assert "1 passed" in run_test("assert True", tmp_path)
