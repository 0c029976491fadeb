"""Counting GPUs: with a package that speaks for NVML, with a library of that name, and with neither."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from types import ModuleType

import pytest

import skate
from skate.core import gpus, nvml
from skate.core.nodes import NodeSpec
from skate.core.settings import Settings

LIBRARY = """
#include <string.h>
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)42L; return index; }
int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    if (device != (void *)42L) return 2;
    strncpy(name, "NVIDIA H100 80GB HBM3", length);
    return 0;
}
"""


class NVMLError(Exception):
    pass


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """A machine that has NVIDIA's driver."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(gpus, "DRIVERS", [str(tmp_path / "nvidiactl")])
    monkeypatch.delenv(gpus.VISIBLE, raising=False)


@pytest.fixture
def package(monkeypatch, driver):
    """A package that knows three GPUs."""
    module = ModuleType("pynvml")
    module.ended = 0
    module.NVMLError = NVMLError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetCount = lambda: 3
    module.nvmlDeviceGetHandleByIndex = lambda index: ("device", index)
    module.nvmlDeviceGetName = {("device", 0): b"NVIDIA A100-SXM4-40GB"}.__getitem__
    module.nvmlShutdown = lambda: setattr(module, "ended", module.ended + 1)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


@pytest.fixture
def build(monkeypatch, driver, tmp_path):
    """Make a library that stands for NVML's, and hide the package."""
    monkeypatch.setitem(sys.modules, "pynvml", None)

    def compiled(init: int = 0, count: int = 2) -> None:
        source, library = tmp_path / "nvml.c", tmp_path / f"nvml{init}{count}.so"
        source.write_text(LIBRARY)
        options = ["-shared", "-fPIC", f"-DINIT={init}", f"-DCOUNT={count}", "-o", str(library)]
        subprocess.run(["cc", *options, str(source)], check=True)
        monkeypatch.setattr(nvml, "LIBRARY", str(library))

    return compiled


def test_the_package_is_asked_and_closed(package):
    assert nvml.detect() == (3, "A100")
    assert package.ended == 1


def test_a_package_without_its_library_finds_none(package):
    def fail() -> None:
        raise NVMLError("no library")

    package.nvmlInit = fail
    assert nvml.detect() == (0, "")
    assert package.ended == 0


def test_a_package_that_fails_later_is_closed(package):
    def fail() -> None:
        raise NVMLError("unknown")

    package.nvmlDeviceGetCount = fail
    assert nvml.detect() == (0, "")
    assert package.ended == 1


def test_the_library_is_asked_where_there_is_no_package(build):
    build()
    assert nvml.detect() == (2, "H100")


@pytest.mark.parametrize(("init", "count"), [(9, 2), (0, 0)])
def test_a_library_that_cannot_say_finds_none(build, init, count):
    build(init, count)
    assert nvml.detect() == (0, "")


def test_no_library_and_a_library_of_another_age_find_none(build, monkeypatch):
    for name in ("libnothing-of-this-name.so", ctypes.util.find_library("c")):
        monkeypatch.setattr(nvml, "LIBRARY", name)
        assert nvml.detect() == (0, "")


def test_gpus_are_counted_when_their_number_is_left_open(package):
    found = gpus.complete(Settings(labels={"zone": "a"}))
    assert found.num_gpus == 3
    assert found.resources == {"accelerator_type:A100": 1}
    assert found.labels == {"ray.io/accelerator-type": "A100", "zone": "a"}


def test_a_label_of_ones_own_wins(package):
    assert gpus.complete(Settings(labels={gpus.LABEL: "mine"})).labels == {gpus.LABEL: "mine"}


def test_a_number_that_is_given_counts_and_zero_asks_nobody(package):
    assert gpus.complete(Settings(num_gpus=1)).num_gpus == 1
    none = Settings(num_gpus=0)
    assert gpus.complete(none) is none
    assert package.ended == 1


@pytest.mark.parametrize(("told", "count"), [("1", 1), ("0,1,2,3", 3), ("", 0)])
def test_no_more_are_counted_than_the_program_sees(package, monkeypatch, told, count):
    monkeypatch.setenv(gpus.VISIBLE, told)
    found = gpus.complete(Settings())
    assert found.num_gpus == count
    assert bool(found.labels) is bool(count)


def test_a_node_with_more_than_the_program_sees_is_refused(monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "0")
    with pytest.raises(ValueError, match="shows 1"):
        gpus.complete(Settings(nodes=(NodeSpec(num_gpus=2),)))


def test_without_a_driver_nobody_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus, "DRIVERS", [str(tmp_path / "nothing")])
    monkeypatch.delitem(sys.modules, "skate.core.nvml", raising=False)
    given = Settings()
    assert gpus.complete(given) is given
    assert "skate.core.nvml" not in sys.modules


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_a_session_has_the_gpus_of_the_machine(package, engine):
    skate.init(engine=engine, num_cpus=1, log_to_driver=False)
    try:
        [node] = skate.nodes()
        task = skate.remote(num_gpus=2, accelerator_type="A100")(lambda: skate.get_gpu_ids())
        there, ids = skate.cluster_resources(), skate.get(task.remote(), timeout=60)
    finally:
        skate.shutdown()
    assert (there["GPU"], there["accelerator_type:A100"], ids) == (3, 1, [0, 1])
    assert node["Labels"][gpus.LABEL] == "A100"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("NVIDIA GeForce RTX 5090", "GeForce-RTX-5090"),
        ("NVIDIA TITAN Xp", "TITAN-Xp"),
        ("GeForce GTX 1080 Ti", "GTX-1080"),
        ("NVIDIA", "NVIDIA"),
        ("", ""),
    ],
)
def test_models_have_the_names_that_ray_gives_them(name, short):
    assert nvml.model(name) == short


def test_a_worker_that_was_shown_fewer_sees_those():
    assert gpus.named([0, 1], ["7"]) == ["7"]
    assert gpus.named([], ["7"]) == []
