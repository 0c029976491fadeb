"""gRPC with stubs as protoc generates them: all four kinds of calls, contexts, ends by cancel and by deadline."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import skate
from skate import serve
from skate.serve import proxy
from skate.serve.grpc_util import RayServegRPCContext, gRPCInputStream

PROTO = """
syntax = "proto3";
package skate.test;
message Word { string text = 1; }
service Words {
  rpc Shout(Word) returns (Word);
  rpc Spell(Word) returns (stream Word);
  rpc Join(stream Word) returns (Word);
  rpc Talk(stream Word) returns (stream Word);
  rpc Refuse(Word) returns (Word);
  rpc Leave(Word) returns (Word);
  rpc Tell(Word) returns (Word);
  rpc Hang(Word) returns (stream Word);
  rpc Wrong(Word) returns (Word);
}
"""


@serve.deployment(num_replicas=2)
class Words:
    def __init__(self) -> None:
        self.word = importlib.import_module("skate_words_pb2").Word
        self.ended = 0

    async def Shout(self, word: Any) -> Any:
        return self.word(text=word.text.upper())

    async def Spell(self, word: Any, grpc_context: RayServegRPCContext) -> AsyncIterator[Any]:
        for letter in word.text:
            yield self.word(text=letter)
        grpc_context.set_trailing_metadata([("letters", str(len(word.text)))])

    async def Join(self, words: gRPCInputStream[Any]) -> Any:
        return self.word(text="+".join([word.text async for word in words]))

    async def Talk(self, words: gRPCInputStream[Any]) -> AsyncIterator[Any]:
        async for word in words:
            yield self.word(text=f"<{word.text}>")

    def Refuse(self, word: Any, grpc_context: RayServegRPCContext) -> None:
        grpc_context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
        grpc_context.set_details(f"no {word.text}")

    async def Leave(self, word: Any, grpc_context: RayServegRPCContext) -> Any:
        grpc_context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
        raise ValueError(f"not {word.text}")

    async def Tell(self, word: Any, grpc_context: RayServegRPCContext) -> Any:
        told = dict(grpc_context.invocation_metadata())
        return self.word(
            text=f"{grpc_context.application()} {grpc_context.request_id()} {told.get('mine')} {self.ended} "
            f"{grpc_context.peer().partition(':')[0]} {grpc_context.code()} {os.getpid()}"
        )

    async def Hang(self, word: Any) -> AsyncIterator[Any]:
        try:
            yield self.word(text="begun")
            await asyncio.sleep(60)
        finally:
            Path(word.text).touch()

    async def Wrong(self, word: Any) -> Any:
        return {"not": "a message"}


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("proto")
    (folder / "skate_words.proto").write_text(PROTO)
    from grpc_tools import protoc

    assert protoc.main(["", f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}",
                        "skate_words.proto"]) == 0  # fmt: skip
    sys.path.insert(0, str(folder))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{before or ''}"
    functions = ["skate_words_pb2_grpc.add_WordsServicer_to_server"]
    skate.init(num_cpus=4)
    serve.start(http_options={"port": 0}, grpc_options={"port": 0, "grpc_servicer_functions": functions})
    serve.run(Words.bind(), name="words", route_prefix="/words")
    port = skate.get(skate.get_actor(proxy.NAME, namespace="serve").grpc_address.remote())[1]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        made = importlib.import_module("skate_words_pb2_grpc").WordsStub(channel)
        made.channel = channel
        yield made
    serve.shutdown()
    skate.shutdown()
    sys.path.remove(str(folder))
    os.environ["PYTHONPATH"] = before or ""


def word(text: str) -> Any:
    return importlib.import_module("skate_words_pb2").Word(text=text)


def test_all_four_kinds_of_calls(stub: Any) -> None:
    assert stub.Shout(word("hi"), timeout=20).text == "HI"
    spelt = stub.Spell(word("abc"), timeout=20)
    assert [each.text for each in spelt] == ["a", "b", "c"]
    assert ("letters", "3") in spelt.trailing_metadata()
    assert stub.Join((word(text) for text in "xyz"), timeout=20).text == "x+y+z"
    assert stub.Join(iter(()), timeout=20).text == ""
    assert [each.text for each in stub.Talk((word(text) for text in "ab"), timeout=20)] == ["<a>", "<b>"]


def test_both_ends_of_a_conversation_wait_for_each_other(stub: Any) -> None:
    answers: list[str] = []

    def words() -> Iterator[Any]:
        yield word("first")
        deadline = time.monotonic() + 20
        while not answers and time.monotonic() < deadline:
            time.sleep(0.01)
        yield word("second")

    for answer in stub.Talk(words(), timeout=30):
        answers.append(answer.text)
    assert answers == ["<first>", "<second>"]


def test_a_long_stream_of_the_client_arrives_whole(stub: Any) -> None:
    texts = [str(number) for number in range(500)]
    assert stub.Join(map(word, texts), timeout=60).text == "+".join(texts)


@pytest.mark.parametrize(
    ("method", "code", "details"),
    [
        ("Refuse", grpc.StatusCode.FAILED_PRECONDITION, "no thing"),
        ("Leave", grpc.StatusCode.INVALID_ARGUMENT, "not thing"),
        ("Wrong", grpc.StatusCode.INTERNAL, "the log tells more"),
    ],
)
def test_a_method_says_with_which_status_it_ends(stub: Any, method: str, code: Any, details: str) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        getattr(stub, method)(word("thing"), timeout=20)
    assert failed.value.code() == code
    assert details in failed.value.details()
    assert [key for key, _ in failed.value.trailing_metadata()].count("request_id") == 1


def test_the_context_tells_of_the_call(stub: Any) -> None:
    metadata = (("application", "words"), ("request_id", "mine"), ("mine", "too"))
    answer, call = stub.Tell.with_call(word(""), metadata=metadata, timeout=20)
    assert answer.text.startswith("words mine too 0 ipv4 None")
    assert ("request_id", "mine") in call.trailing_metadata()
    assert len({stub.Tell(word(""), timeout=20).text.split()[-1] for _ in range(40)}) == 2  # both replicas answer


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_the_end_of_a_call_reaches_the_method(
    stub: Any, how: str, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    mark = tmp_path / "ended"
    call = stub.Hang(word(str(mark)), timeout=60 if how == "cancel" else 3)
    assert next(call).text == "begun"
    if how == "cancel":
        call.cancel()
    eventually(mark.exists, 20)


def test_calls_are_measured_with_their_status(stub: Any) -> None:
    stub.Shout(word("hi"), timeout=20)
    with pytest.raises(grpc.RpcError):
        stub.Refuse(word("x"), timeout=20)
    with pytest.raises(grpc.RpcError):
        stub.Wrong(word("x"), timeout=20)
    found = {
        (row["name"], row["tags"]["method"].rpartition("/")[2], *list(row["tags"].values())[-1:]): row["value"]
        for row in serve.metrics.snapshot()
        if row["name"] in ("serve_num_grpc_requests", "serve_num_grpc_error_requests")
    }
    assert found["serve_num_grpc_requests", "Shout", "StatusCode.OK"] >= 1
    assert found["serve_num_grpc_error_requests", "Refuse", "StatusCode.FAILED_PRECONDITION"] >= 1
    assert found["serve_num_grpc_error_requests", "Wrong", "StatusCode.INTERNAL"] >= 1


def test_clients_can_ask_which_services_there_are(stub: Any) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    asked = reflection_pb2_grpc.ServerReflectionStub(stub.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = asked.ServerReflectionInfo(iter([request]), timeout=20)
    assert "skate.test.Words" in {each.name for each in answer.list_services_response.service}
