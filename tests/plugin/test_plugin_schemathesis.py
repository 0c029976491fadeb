"""What schemathesis makes of the example's OpenAPI document: whatever it sends, no answer is a 500."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")
pytest.importorskip("schemathesis", reason="part of the extra `dev`")

import requests
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from plugin_services import EXAMPLE, forget
from schemathesis import GenerationMode

from skate.plugin import run

EXAMPLES = 20
"""Requests for each operation."""


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Connections to the upstream service stay open until the module's service ends, and are looked for then."""


@pytest.fixture(scope="module")
def client(warehouse: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("service") / "it"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    config = folder / "config.toml"
    config.write_text(config.read_text().replace("http://127.0.0.1:9000", warehouse))
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.syspath_prepend(str(folder))
    patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    app = run(test_mode=True, engine="inline", strict=True, flags={"cache.enabled": True, "log.level": "error"})
    assert app is not None
    with TestClient(app) as made:
        yield made
    patch.undo()
    forget(folder)


def operations(client: TestClient) -> list[Any]:
    schema = schemathesis.openapi.from_dict(client.get("/api/v1/openapi.json").json())
    found = [each.ok() for each in schema.get_all_operations()]
    assert len(found) >= 8
    return found


def send(client: TestClient, case: Any) -> Any:
    """Send a case as it is, over the client that the service has."""
    made = requests.Request(**case.as_transport_kwargs(base_url="http://testserver")).prepare()
    request = client.build_request(made.method or "GET", "http://testserver/", content=made.body, headers=made.headers)  # type: ignore[arg-type]
    request.url = request.url.copy_with(raw_path=made.path_url.encode())
    return client.send(request)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_that_the_document_suggests_is_answered_with_a_500(client: TestClient, mode: GenerationMode) -> None:
    strategies = [operation.as_strategy(mode) for operation in operations(client)]
    answered: dict[str, int] = {}

    @seed(20261121)
    @settings(
        max_examples=EXAMPLES * len(strategies),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(strategies))
    def check(case: Any) -> None:
        answer = send(client, case)
        answered[case.operation.label] = answered.get(case.operation.label, 0) + 1
        assert answer.status_code < 500, (case.as_curl_command(), answer.text[:300])

    check()
    assert len(answered) >= len(strategies) - 2, answered  # some take nothing that could be wrong
