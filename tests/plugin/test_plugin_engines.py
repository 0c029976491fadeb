"""The example service behaves the same on every engine."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")

from fastapi.testclient import TestClient
from plugin_services import EXAMPLE, data, forget

from skate.plugin import run

ENGINES = ["ray"] if os.environ.get("SKATE_ENGINE") == "ray" else ["inline", "local"]
"""As `tests/serve` has it: ``SKATE_ENGINE=ray`` chooses real Ray."""
if "ray" in ENGINES:
    pytestmark = pytest.mark.timeout(200)  # its daemons and actors come up late on a busy machine


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Connections to the upstream service stay open until the module's service ends, and are looked for then."""


if "ray" in ENGINES:

    @pytest.fixture(autouse=True, scope="module")
    def no_leaks_from_module() -> None:
        """Ray keeps descriptors of a closed session in its process: not ours to judge."""


@pytest.fixture(scope="module", params=ENGINES)
def client(
    request: pytest.FixtureRequest, warehouse: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("service") / "it"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    config = folder / "config.toml"
    config.write_text(config.read_text().replace("http://127.0.0.1:9000", warehouse))
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.syspath_prepend(str(folder))
    patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    flags = {"cache.enabled": True, "log.level": "error"}
    app = run(test_mode=True, engine=request.param, num_cpus=2, strict=True, flags=flags)
    with TestClient(app) as made:
        yield made
    patch.undo()
    forget(folder)


def test_a_light_route_answers(client: TestClient) -> None:
    assert data(client.get("/api/v1/hello", params={"name": "Ada"})) == "hello Ada"
    assert data(client.get("/api/v1/hello")) == "hello you"


def test_heavy_work_is_done_and_kept(client: TestClient) -> None:
    params = {"below": 10_000}
    first = client.get("/api/v1/primes", params=params)
    again = client.get("/api/v1/primes", params=params)
    anew = client.get("/api/v1/primes", params=params, headers={"X-Skate-Cache": "refresh"})
    assert data(first) == data(again) == data(anew) == 1229
    assert [each.headers["x-skate-cache-status"] for each in (first, again, anew)] == ["MISS", "HIT", "REFRESH"]
    assert first.headers["x-skate-cache-key"] == again.headers["x-skate-cache-key"]


def test_a_stream_comes_as_events(client: TestClient) -> None:
    with client.stream("GET", "/api/v1/story", params={"about": "a fox"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert lines[0] == "event: message_chunk" and lines[1] == 'data: {"content": "once"}'
    assert lines[-2:] == ["event: finish", "data: {}"]


def test_a_plugin_calls_two_others_and_somebody_elses_service(client: TestClient) -> None:
    found = data(client.post("/api/v1/digest", json={"item": "fox", "below": 30}))
    assert found == {"title": "The fox", "words": ["once", "there", "was", "fox"], "primes": 10, "stock": 3}


def test_errors_have_their_status(client: TestClient) -> None:
    nothing = client.post("/api/v1/digest", json={"item": "nothing"})
    assert (nothing.status_code, nothing.json()["message"]) == (404, "there is nothing about nothing")
    assert client.post("/api/v1/digest", json={"below": "many"}).status_code == 422
    upstream = client.post("/api/v1/digest", json={"item": "unicorn"})
    assert (upstream.status_code, upstream.json()["message"]) == (404, "the warehouse has no unicorn")


def test_what_was_not_declared_is_refused(client: TestClient) -> None:
    answer = client.get("/api/v1/digest/secret")
    assert answer.status_code == 500 and "/api/v1/hello" not in answer.text


def test_upstream_routes_are_published_as_allowed(client: TestClient) -> None:
    assert client.get("/api/v1/stock/fox", params={"unit": "box"}).json()["unit"] == "box"
    assert client.get("/api/v1/stock/unicorn").status_code == 404
    assert client.post("/api/v1/stock/deliver", json={"item": "x", "amount": 1}).json() == {"item": "x", "amount": 2}
    files = {"file": ("note.txt", b"12345")}
    answer = client.post("/api/v1/stock/note", data={"text": "hi"}, files=files)
    assert answer.json() == {"text": "hi", "name": "note.txt", "bytes": 5}
    assert client.get("/api/v1/stock/log/events").text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert client.get("/api/v1/private").status_code == 404


def test_one_document_describes_all_routes(client: TestClient) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert {"/api/v1/hello", "/api/v1/digest", "/api/v1/stock/{item}"} <= document["paths"].keys()
    assert "/api/v1/private" not in document["paths"]
    parameters = document["paths"]["/api/v1/primes"]["get"]["parameters"]
    assert [(each["name"], each["in"], each["required"]) for each in parameters] == [("below", "query", True)]


def test_many_requests_at_once_are_all_answered(client: TestClient) -> None:
    def ask(number: int) -> Any:
        return data(client.get("/api/v1/hello", params={"name": number}))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(64))) == [f"hello {number}" for number in range(64)]


def test_heavy_work_leaves_the_loop_free(client: TestClient) -> None:
    done = threading.Event()

    def heavy() -> None:
        for number in range(5):
            client.get("/api/v1/primes", params={"below": 150_000 + number})
        done.set()

    thread = threading.Thread(target=heavy)
    thread.start()
    answered = 0
    while not done.is_set():
        assert data(client.get("/api/v1/hello")) == "hello you"
        answered += 1
        time.sleep(0.001)
    thread.join()
    assert answered > 3
