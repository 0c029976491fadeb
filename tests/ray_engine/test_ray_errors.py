"""What can go wrong when a cluster is joined, or when its nodes lack something: one clear error for each."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from machines import Machines, rays_own

import skate
from skate._version import __version__

ray = pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    made = Machines(rays_own())
    try:
        made.head()
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    skate.shutdown()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that this process can import, and the nodes cannot."""
    folder = tmp_path / "mine" / "grist"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "def mill(n):\n    return n * 10\n\nclass Mill:\n    def go(self):\n        return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    yield folder
    sys.modules.pop("grist", None)


def join(machines, **more):
    skate.init(engine="ray", address=machines.address, log_to_driver=False, **more)


@pytest.fixture
def pretended(machines):
    """Have the cluster say that it runs other versions than it does."""
    client = ray._raylet.GcsClient(address=machines.address)
    key = b"CLUSTER_METADATA"
    true = client.internal_kv_get(key, b"cluster")

    def pretend(**versions):
        client.internal_kv_put(key, json.dumps({**json.loads(true), **versions}).encode(), True, b"cluster")

    yield pretend
    client.internal_kv_put(key, true, True, b"cluster")


def test_another_ray(machines, pretended):
    pretended(ray_version="2.7.0")
    with pytest.raises(RuntimeError) as caught:
        join(machines)
    assert "has Ray 2.7.0 on Python" in str(caught.value) and f"this program has Ray {ray.__version__}" in str(
        caught.value
    )
    assert "pip install 'ray==2.7.0'" in str(caught.value) and "Python 3" in str(caught.value)
    assert not skate.is_initialized() and not ray.is_initialized()


def test_another_python(machines, pretended):
    pretended(python_version="3.9.1")
    with pytest.raises(RuntimeError, match=r"run this program with Python 3.9.1"):
        join(machines)


def test_something_else_at_the_address(monkeypatch):
    def silent(address):
        raise ray.exceptions.RpcError("Timed out while waiting for GCS to become available.")  # after half a minute

    monkeypatch.setattr(ray._raylet, "GcsClient", silent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "127.0.0.1:{1}".format(*server.getsockname())
        with pytest.raises(ConnectionError, match=r"Something listens at '127.0.0.1:.*, but no cluster of Ray answers"):
            skate.init(engine="ray", address=address)


def test_workers_without_skate(machines, monkeypatch):
    monkeypatch.setenv("SKATE_SHIP", "0")
    with pytest.raises(RuntimeError, match=r"workers of this cluster have no Skate.*Leave SKATE_SHIP out"):
        join(machines)
    assert not skate.is_initialized() and not ray.is_initialized()


def test_workers_with_another_skate(machines, monkeypatch, tmp_path):
    (tmp_path / "skate").mkdir()
    (tmp_path / "skate" / "__init__.py").write_text("")
    (tmp_path / "skate" / "_version.py").write_text("__version__ = '0.0.1'\n")
    monkeypatch.setenv("SKATE_SHIP", "0")
    with pytest.raises(RuntimeError, match=f"have Skate 0.0.1, the driver has Skate {__version__}"):
        join(machines, runtime_env={"env_vars": {"PYTHONPATH": str(tmp_path)}})


def test_a_worker_tells_that_it_has_another_skate(monkeypatch):
    from skate.engines.ray import shipping

    shipping.check_worker()
    monkeypatch.setenv(shipping.DRIVERS, "9.9")
    with pytest.raises(RuntimeError, match=rf"have Skate {__version__}, the driver has Skate 9.9"):
        shipping.check_worker()


def test_a_library_that_only_the_driver_has(machines, package):
    import grist

    join(machines)

    @skate.remote(max_retries=0)
    def inside():
        import grist as found

        return found.mill(1)

    by_name = skate.remote(max_retries=0)(grist.mill)
    for call in (inside.remote, lambda: by_name.remote(1)):
        with pytest.raises(skate.exceptions.RayError) as caught:
            skate.get(call())
        said = str(caught.value)
        assert "The workers cannot import 'grist'" in said and f"'py_modules': ['{package}']" in said
    with pytest.raises(ModuleNotFoundError):
        skate.get(inside.remote())
    said = ""
    for _ in range(3):  # on a busy machine Ray may tell no more than that the actor is gone
        actor = skate.remote(grist.Mill).remote()
        with pytest.raises(skate.exceptions.ActorDiedError) as gone:
            skate.get(actor.go.remote())
        said = said or str(gone.value) * ("import" in str(gone.value))
    assert "The workers cannot import 'grist'" in said
    skate.shutdown()
    join(machines, runtime_env={"py_modules": [str(package)]})
    assert skate.get([inside.remote(), by_name.remote(2)]) == [10, 20]


def test_a_package_that_only_the_driver_has_is_named_with_its_version(machines):
    skate.init(engine="ray", address=machines.address, log_to_driver=False, runtime_env={})

    @skate.remote(max_retries=0)
    def inside():
        raise ModuleNotFoundError("No module named 'pluggy'", name="pluggy")  # as an import would: it is there

    with pytest.raises(ModuleNotFoundError) as caught:
        skate.get(inside.remote())
    import importlib.metadata

    assert f"'pip': ['pluggy=={importlib.metadata.version('pluggy')}']" in str(caught.value)


def test_a_library_that_nobody_has(machines):
    join(machines)

    @skate.remote(max_retries=0)
    def inside():
        import no_such_library_anywhere  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="The workers cannot import 'no_such_library_anywhere', nor can this"):
        skate.get(inside.remote())


def test_virtual_nodes():
    with pytest.raises(ValueError, match="virtual nodes, of which the engine 'ray' has none"):
        skate.init(engine="ray", nodes=[{"num_cpus": 1}, {"num_cpus": 1}])


def test_an_unknown_argument():
    with pytest.raises(RuntimeError, match="no argument called colour"):
        skate.init(engine="ray", colour="blue")


def test_an_unknown_setting(monkeypatch):
    monkeypatch.setenv("SKATE_ENGINE__ADRESS", "auto")
    with pytest.raises(ValueError, match="Did you mean 'address'"):
        skate.init(engine="ray")


def test_ray_client_without_its_package(machines, monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "grpc" else found(name, *more))
    with pytest.raises(ImportError, match=r"skate-ray\[ray-client\]"):
        skate.init(engine="ray", address=f"ray://{machines.address}")


def test_ray_that_is_not_installed():
    program = (
        "import sys, importlib.abc\n"
        "class No(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'ray': raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n"
        "sys.meta_path.insert(0, No())\n"
        "import skate\n"
        "skate.init(engine='ray')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert "ImportError: The engine 'ray' needs Ray itself: pip install 'skate-ray[ray]'." in done.stderr
