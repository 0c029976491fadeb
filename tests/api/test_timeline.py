"""The timeline as events, as a file, and as a page that nothing in it can break out of."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

import pytest

import skate
from skate.util.timeline import page

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\u2028\"'`${7*7}"


def events(session_name: str) -> list[dict[str, object]]:
    return [event for event in skate.timeline() or [] if event["name"] == session_name]


def test_each_lane_has_a_name(session: None) -> None:
    @skate.remote
    def f() -> int:
        return 1

    skate.get([f.remote() for _ in range(3)])
    found = skate.timeline()
    assert found is not None
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in found if event["name"] == "thread_name"}
    spans = [event for event in found if event["ph"] == "X"]
    assert len(spans) == 3 and all("worker" in names[event["pid"], event["tid"]] for event in spans)
    assert all(isinstance(event[key], int) for event in spans for key in ("pid", "tid"))  # Perfetto takes no others
    assert [event["ts"] for event in spans] == sorted(event["ts"] for event in spans)


def test_failed_call_tells_why(session: None) -> None:
    @skate.remote(max_retries=0)
    def breaks() -> None:
        raise ValueError("as it must")

    with pytest.raises(ValueError):
        skate.get(breaks.remote())
    (event,) = events("breaks")
    arguments = event["args"]
    assert isinstance(arguments, dict) and "as it must" in arguments["error_message"]
    assert arguments["state"] == "FAILED"


class Reader(html.parser.HTMLParser):
    """What a browser would make of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_page_is_safe_against_names_that_hold_html(session: None, tmp_path: Path) -> None:
    @skate.remote
    def f() -> int:
        return 1

    skate.get(f.options(name=NASTY).remote())
    path = tmp_path / "out.html"
    assert skate.timeline(path) is None
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    kinds = [tag for tag, _ in reader.tags]
    assert kinds.count("script") == 1 and "img" not in kinds
    data = re.search(r"^const EVENTS = (.*);$", text, re.MULTILINE)
    assert data is not None
    assert NASTY in {event["name"] for event in json.loads(data[1])}


def test_page_asks_the_network_for_nothing() -> None:
    text = page([])
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    reader = Reader()
    reader.feed(text)
    assert not any({"src", "href", "action"} & attributes.keys() for _, attributes in reader.tags)
    policy = next(attributes for tag, attributes in reader.tags if "http-equiv" in attributes)["content"]
    assert policy is not None and policy.startswith("default-src 'none'")


def test_page_shows_text_as_text_only() -> None:
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|outerHTML", page([]))


def test_file_holds_what_is_returned_otherwise(session: None, tmp_path: Path) -> None:
    @skate.remote
    def f() -> int:
        return 1

    skate.get(f.remote())
    skate.timeline(str(tmp_path / "out.json"))
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(skate.timeline()))


def test_file_that_cannot_be_written_is_an_error(session: None, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        skate.timeline(tmp_path / "missing" / "out.json")


def test_without_a_session_there_is_none() -> None:
    with pytest.raises(RuntimeError, match="No session runs"):
        skate.timeline()
