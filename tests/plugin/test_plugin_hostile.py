"""Whatever is sent to a service, it answers, and never with a 500."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plugin_services import forget

from skate.plugin import run

PLUGIN = """
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from fastapi import File, Form, Header, UploadFile
from pydantic import BaseModel
from skate.plugin import *

__plugin_meta__ = PluginMetadata(name="rude", version="1", description="")

class Model(BaseModel):
    number: float
    text: str = ""
    when: datetime | None = None
    price: Decimal | None = None
    more: dict[str, Any] = {}
    inner: "list[Model]" = []

@on_register()
class Rude(BasePlugin):
    @on_request("/number/{n}", methods=["GET"])
    async def number(self, n: int, kind: Literal["a"] = "a") -> int: return n
    @on_request("/text/{rest:path}", methods=["GET"])
    async def text(self, rest: str, q: str = "", x: Annotated[str, Header()] = "") -> list[str]: return [rest, q, x]
    @on_request("/model", methods=["POST"], cache={})
    async def model(self, model: Model) -> Model: return model
    @on_request("/any", methods=["POST"])
    async def any(self, value: dict[str, Any]) -> Any: return value
    @on_request("/form", methods=["POST"])
    async def form(self, text: Annotated[str, Form()], file: Annotated[UploadFile, File()]) -> Any:
        return [text, file.filename, len(await file.read())]
    @on_request("/stream", methods=["GET"], stream=True)
    async def stream(self, item: str):
        yield item
        yield {"item": item}
"""
PATHS = ["number", "text", "model", "any", "form", "stream"]
RUDE = st.sampled_from(
    [
        b"", b"null", b"[]", b"{", b'{"number": NaN}', b'{"number": 1e999}', b'{"number": 1, "more": {"x": Infinity}}',
        b'{"number": 1, "text": "\\ud800"}', b'{"x": "\\ud800"}', b"\xff\xfe",
        b"[" * 5000, b'{"a":' * 5000, b"9" * 6000,
        b'{"number": ' + b"9" * 5000 + b"}", b'{"number": 1, "when": 1e300}', b'{"number": 1, "price": "1e999999"}',
        b"--b\r\nContent-Disposition: form-data; name=text\r\n\r\nx", b"--b--\r\n", b"text=%ff&file=%00", b'"\x00"',
        b'{"a":' * 300 + b"1" + b"}" * 300, b'{"a":' * 900 + b"1" + b"}" * 900,
        b'{"number": 1, "more": ' + b'{"a":' * 400 + b"[]" + b"}" * 401,
        b'{"number": 1, "when": "9999999999999999"}', b'{"price": "NaN", "number": 1}',
        b'{"number": 1, "price": "sNaN"}',
    ]
)  # fmt: skip
KINDS = ["application/json", "application/json; charset=utf-7", "multipart/form-data; boundary=b", "text/plain", ""]
KINDS += ["multipart/form-data", "application/x-www-form-urlencoded", "application/json; charset=\xff", "a/b/c"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("rude")
    (folder / "rude.py").write_text(PLUGIN)
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.syspath_prepend(str(folder))
    flags = {"cache.enabled": True, "log.access": False, "auth.rules": {"/api/v1/hidden/*": ["k"]}}
    app = run(test_mode=True, engine="inline", load_plugins=["rude"], strict=True, flags=flags)
    with TestClient(app) as made:
        yield made
    patch.undo()
    forget(folder)


def send(client: TestClient, method: str, path: bytes, body: bytes, headers: dict[str, Any]) -> int:
    request = client.build_request(method, "http://testserver/", content=body, headers=headers)
    request.url = request.url.copy_with(raw_path=path)
    return client.send(request, follow_redirects=False).status_code


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(PATHS),
    tail=st.binary(max_size=12)
    | st.sampled_from([b"/1", b"/%00", b"/%ff", b"?item=%ff", b"?n=1&n=2", b"/" + b"9" * 5000]),
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "TRACE"]),
    body=RUDE | st.binary(max_size=40),
    kind=st.sampled_from(KINDS),
)
def test_no_request_is_answered_with_a_500(
    client: TestClient, name: str, tail: bytes, method: str, body: bytes, kind: str
) -> None:
    quoted = bytes(byte if 33 <= byte < 127 and byte != 35 else 120 for byte in tail)
    headers = {"content-type": kind.encode("latin-1"), "x": tail.replace(b"\r", b"").replace(b"\n", b"").strip()}
    assert send(client, method, b"/api/v1/" + name.encode() + quoted, body, headers) < 500


@pytest.mark.parametrize("name", ["model", "any", "form"])
def test_no_rude_body_is_answered_with_a_500(client: TestClient, name: str) -> None:
    bodies = RUDE.elements  # type: ignore[attr-defined]  of a strategy that samples
    for body in bodies:
        for kind in KINDS:
            status = send(client, "POST", b"/api/v1/" + name.encode(), body, {"content-type": kind.encode("latin-1")})
            assert status < 500, (body[:60], kind)
