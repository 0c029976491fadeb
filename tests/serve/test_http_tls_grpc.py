"""HTTPS and gRPC, where the proxy itself serves and calls replicas by handles."""

from __future__ import annotations

import pickle
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from starlette.requests import Request

import skate
from skate import serve
from skate.serve import proxy


def add_words_to_server(servicer: Any, server: Any) -> None:
    """As protoc generates such functions, with pickle in place of protocol buffers."""
    codecs = {"request_deserializer": pickle.loads, "response_serializer": pickle.dumps}
    methods = {
        "Shout": grpc.unary_unary_rpc_method_handler(servicer.Shout, **codecs),
        "Spell": grpc.unary_stream_rpc_method_handler(servicer.Spell, **codecs),
        "Fail": grpc.unary_unary_rpc_method_handler(servicer.Fail, **codecs),
        "Gather": grpc.stream_unary_rpc_method_handler(servicer.Gather, **codecs),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Words", methods),))


@serve.deployment
class Words:
    async def __call__(self, request: Request) -> Any:
        if request.url.path.endswith("/stream"):
            return self.parts()
        return {"scheme": request.url.scheme, "body": len(await request.body())}

    async def parts(self) -> Any:
        for number in range(3):
            yield f"{number};"

    def Shout(self, words: list[str]) -> list[str]:
        return [word.upper() for word in words]

    def Spell(self, words: list[str]) -> Iterator[list[str]]:
        for word in words:
            yield [word]

    def Fail(self, words: list[str]) -> None:
        raise RuntimeError("the secret reason")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(cert), str(key)


@pytest.fixture(scope="module")
def served(certificate: tuple[str, str]) -> Iterator[tuple[str, int]]:
    skate.init(num_cpus=2)
    serve.start(
        http_options={"port": 0, "ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]},
        grpc_options={"port": 0, "grpc_servicer_functions": [add_words_to_server]},
    )
    serve.run(Words.bind(), name="words", route_prefix="/w")
    front = skate.get_actor(proxy.NAME, namespace="serve")
    yield (
        f"https://127.0.0.1:{skate.get(front.address.remote())[1]}",
        skate.get(front.grpc_address.remote())[1],
    )
    serve.shutdown()
    skate.shutdown()


def test_https(served: tuple[str, int], certificate: tuple[str, str]) -> None:
    context = ssl.create_default_context(cafile=certificate[0])
    with httpx.Client(base_url=served[0], verify=context) as client:
        assert client.post("/w/x", content=b"x" * 200_000).json() == {"scheme": "https", "body": 200_000}
        assert client.get("/w/stream").text == "0;1;2;"
        assert client.get("/nowhere").status_code == 404
        assert client.get("/w/x", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    with pytest.raises(httpx.ConnectError):
        httpx.get(served[0], verify=ssl.create_default_context())
    with pytest.raises(httpx.HTTPError):
        httpx.get(served[0].replace("https", "http"))


def test_files_for_https_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    from skate.serve.config import HTTPOptions

    options = HTTPOptions(ssl_certfile=str(tmp_path / "none.pem"), ssl_keyfile=str(tmp_path / "none.key"))
    with pytest.raises(ValueError, match=r"none\.pem"):
        proxy.tls_context(options)


def call(port: int, method: str, text: Any, *metadata: tuple[str, str], service: str = "test.Words") -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(f"/{service}/{method}", pickle.dumps, pickle.loads)
        return ask.with_call(text, metadata=metadata, timeout=60)


def test_grpc(served: tuple[str, int]) -> None:
    value, told = call(served[1], "Shout", ["hi"], ("application", "words"), ("request_id", "mine"))
    assert value == ["HI"]
    assert ("request_id", "mine") in told.trailing_metadata()
    assert call(served[1], "Shout", ["the", "only"])[0] == ["THE", "ONLY"]
    with grpc.insecure_channel(f"127.0.0.1:{served[1]}") as channel:
        spell = channel.unary_stream("/test.Words/Spell", pickle.dumps, pickle.loads)
        assert list(spell(["a", "b"], timeout=60)) == [["a"], ["b"]]
        healthy = channel.unary_unary("/ray.serve.RayServeAPIService/Healthz")
        assert healthy(b"", timeout=60) == b"\x0a\x07success"
        apps = channel.unary_unary("/ray.serve.RayServeAPIService/ListApplications")
        assert apps(b"", timeout=60) == b"\x0a\x05words"


@pytest.mark.parametrize(
    ("method", "metadata", "code", "text"),
    [
        ("Shout", (("application", "none"),), grpc.StatusCode.NOT_FOUND, "there are: words"),
        ("Nothing", (), grpc.StatusCode.UNIMPLEMENTED, ""),
        ("Fail", (), grpc.StatusCode.INTERNAL, "request"),
        ("Gather", (), grpc.StatusCode.UNIMPLEMENTED, "streamed"),
    ],
)
def test_grpc_errors_have_their_status(
    served: tuple[str, int], method: str, metadata: Any, code: Any, text: str
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        call(served[1], method, ["x"], *metadata)
    assert failed.value.code() == code
    assert text in failed.value.details()
    assert "secret" not in failed.value.details()
