"""A session's folder: private, gone at the end, and swept when its process died."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from skate.core import folder
from skate.core.folder import SessionFolder, living, sweep


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that has a folder, and the folder's path."""
    script = "from skate.core.folder import SessionFolder\nprint(SessionFolder().path, flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        yield child, child.stdout.readline().strip()
        child.kill()


def test_the_folder_belongs_to_its_owner_alone_and_names_the_process(root):
    made = SessionFolder()
    try:
        assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o700
        assert os.path.dirname(made.path) == str(root)
        assert os.path.basename(made.path).startswith(f"skate-{os.getuid()}-{os.getpid()}-")
    finally:
        made.remove()
    assert list(root.iterdir()) == []


def test_removing_takes_all_that_is_in_it_and_is_harmless_twice():
    made = SessionFolder()
    Path(made.path, "a").mkdir()
    Path(made.path, "a", "file").write_text("x")
    made.remove()
    made.remove()
    assert not os.path.exists(made.path)


def test_two_sessions_of_one_process_have_folders_of_their_own_and_neither_is_swept():
    one, two = SessionFolder(), SessionFolder()
    try:
        assert one.path != two.path
        assert sweep() == []
        assert os.path.isdir(one.path) and os.path.isdir(two.path)
    finally:
        one.remove()
        two.remove()


def test_the_folder_of_a_killed_process_is_swept_by_the_next_session():
    with owner() as (child, path):
        assert sweep() == [], "its owner lives"
        child.send_signal(signal.SIGKILL)
        child.wait()
        mine = SessionFolder()
        assert not os.path.exists(path) and os.path.exists(mine.path)
        mine.remove()


def test_a_sweep_leaves_what_is_not_a_sessions_folder(root):
    (root / "skate-of-somebody-else").mkdir()
    (root / f"{folder._PREFIX}1-just-being-made").mkdir()
    (root / f".{folder._PREFIX}{os.getpid()}-half-made").mkdir()
    (root / f"{folder._PREFIX}odd").mkdir()
    (root / f"{folder._PREFIX}a-file").write_text("x")
    assert sweep() == []
    assert len(list(root.iterdir())) == 5


@pytest.mark.parametrize("call", ["mkdir", "flock", "rename", "unlink", "rmdir"])
def test_a_process_killed_in_the_middle_of_making_or_deleting_its_folder_leaves_nothing(call, root):
    script = f"""
import fcntl, os, signal
from skate.core.folder import SessionFolder
module = fcntl if {call!r} == "flock" else os
real = getattr(module, {call!r})
def kill(*args):
    real(*args)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, {call!r}, kill)
made = SessionFolder()
open(os.path.join(made.path, "more"), "w").close()
made.remove()
"""
    ended = subprocess.run([sys.executable, "-c", script])
    assert ended.returncode == -signal.SIGKILL
    SessionFolder().remove()
    assert list(root.iterdir()) == []


def test_living_sessions_are_found_and_no_others(root):
    assert living() == []
    one, two = SessionFolder(), SessionFolder()
    open_to_all = SessionFolder()
    os.chmod(open_to_all.path, 0o755)
    (root / f"{folder._PREFIX}1-file").write_text("x")
    os.symlink(one.path, root / f"{folder._PREFIX}1-link")
    (root / f"{folder._PREFIX}999999999-dead").mkdir(mode=0o700)
    assert living() == [one.path, two.path]
    one.remove()
    assert living(str(root)) == [two.path]
    two.remove()
    open_to_all.remove()


def test_the_folder_of_a_killed_process_is_not_of_a_living_session():
    with owner() as (child, path):
        assert living() == [path]
        child.kill()
        child.wait()
        assert living() == [] and os.path.exists(path)
