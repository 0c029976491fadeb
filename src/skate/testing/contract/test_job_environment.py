"""The runtime environment of a whole job: files that are left out, and a hook in every worker."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(tempfile.mkdtemp(prefix="contract-job-"))
(FOLDER / "inner").mkdir()
for name in ("data.txt", "drop.log", "inner/drop.log", "keep.log"):
    (FOLDER / name).write_text(name)


def hook():
    os.environ["CONTRACT_HOOKED"] = str(os.getpid())


INIT = {
    "runtime_env": {
        "working_dir": str(FOLDER),
        "excludes": ["*.log", "!keep.log"],
        "worker_process_setup_hook": hook,
    }
}


@pytest.fixture(scope="module", autouse=True)
def no_rests():
    """The files go with the last case, and so does what the hook may have set here."""
    yield
    shutil.rmtree(FOLDER)
    os.environ.pop("CONTRACT_HOOKED", None)


def test_what_is_excluded_is_not_there(ray):
    @ray.remote
    def files():
        return sorted(str(path) for path in Path(".").rglob("*") if path.is_file())

    assert ray.get(files.remote()) == ["data.txt", "keep.log"]


def test_hook_has_run_in_the_process_of_a_call(ray):
    @ray.remote
    def task():
        return os.environ["CONTRACT_HOOKED"] == str(os.getpid())

    @ray.remote
    class Actor:
        def method(self):
            return os.environ["CONTRACT_HOOKED"] == str(os.getpid())

    assert ray.get([task.remote(), Actor.remote().method.remote()]) == [True, True]
