"""Plugins are found, broken ones are reported by name, and dependencies are settled before anything starts."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")

from fastapi.testclient import TestClient
from plugin_services import Write, data

from skate.configuration import ConfigError
from skate.plugin import (
    ApiType,
    PluginDependencyError,
    PluginLoadError,
    load_builtin_plugins,
    load_plugins,
    loading,
    on_register,
    on_request,
    run,
)

GOOD = """
@on_register()
class Good(BasePlugin):
    @on_request("/good", methods=["GET"])
    async def good(self) -> str:
        return "good"
"""
OTHER = GOOD.replace("good", "other")


def service(**options: Any) -> Any:
    return run(test_mode=True, engine="inline", **options)


def test_a_package_is_searched_recursively(write: Write, place: Path) -> None:
    write(shop__good=GOOD, shop__more__other=OTHER, shop___private="raise RuntimeError")
    for folder in (place / "shop", place / "shop" / "more"):
        (folder / "__init__.py").touch()
    with TestClient(service(load_plugins=["shop"])) as client:
        assert data(client.get("/api/v1/good")) == "good" and data(client.get("/api/v1/other")) == "other"


def test_broken_plugins_are_named_with_their_cause_while_the_rest_runs(
    write: Write, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(good=GOOD, broken="import not_installed_anywhere", empty="", late=OTHER + "    def __init__(self): 1 / 0\n")
    (place / "no_meta.py").write_text("")
    names = ["good", "broken", "empty", "late", "no_meta", "nowhere"]
    with TestClient(service(load_plugins=names)) as client:
        assert data(client.get("/api/v1/good")) == "good"
        assert client.get("/api/v1/other").status_code == 503
        assert client.get("/ready").json()["failed"] == ["broken", "empty", "late", "no_meta", "nowhere"]
    assert "plugin broken is left out: ModuleNotFoundError: No module named 'not_installed_anywhere'" in caplog.text
    assert "plugin empty is left out: no class is marked with @on_register()" in caplog.text
    assert "plugin late does not run: ZeroDivisionError" in caplog.text
    assert "has no __plugin_meta__" in caplog.text
    assert "plugin nowhere is left out: there is no module 'nowhere'" in caplog.text


def test_strict_fails_for_all_of_them_at_once(write: Write) -> None:
    write(good=GOOD, broken="1 / 0", other=OTHER + "    async def on_start(self): raise OSError('no disk')\n")
    with pytest.raises(PluginLoadError, match=r"(?s)\(2\).*broken: ZeroDivisionError.*nowhere: there is no module"):
        service(load_plugins=["good", "broken", "nowhere"], strict=True)
    with (
        pytest.raises(PluginLoadError, match="other: OSError: no disk"),
        TestClient(service(load_plugins=["good", "other"], strict=True)),
    ):
        pass


def test_disabled_plugins_do_not_start(write: Write) -> None:
    write(good=GOOD, other=OTHER)
    with TestClient(service(load_plugins=["good", "other"], flags={"disabled_plugins": ["other"]})) as client:
        assert client.get("/api/v1/other").status_code == 404
        assert client.get("/ready").json() == {"status": "ready", "plugins": ["good"], "failed": []}


def test_installed_packages_announce_plugins(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(good=GOOD)
    points = [EntryPoint("any", "good:Good", "skate.plugins")]
    monkeypatch.setattr(loading, "entry_points", lambda group: points if group == "skate.plugins" else [])
    with TestClient(service()) as client:
        assert data(client.get("/api/v1/good")) == "good"


def test_a_program_loads_plugins_itself(write: Write) -> None:
    write(good=GOOD)
    assert load_plugins("good") == {"good"} and load_builtin_plugins("echo") == {"echo"}
    with TestClient(service()) as client:
        assert data(client.get("/api/v1/good")) == "good"
        assert data(client.get("/api/v1/echo", params={"message": "x"})) == "x"
    with TestClient(service(load_plugins=["good"], load_builtin_plugins=["echo"], strict=True)) as client:
        assert data(client.get("/api/v1/good")) == "good"  # asked for once more, loaded once
    with pytest.raises(ValueError, match="no built-in plugin 'ehco'; there are: echo, proxy"):
        load_builtin_plugins("ehco")


def test_two_plugins_of_one_name_or_route(write: Write, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(a__good=GOOD, b__good=OTHER, again=GOOD)
    with TestClient(service(load_plugins=["a.good", "b.good", "again"])) as client:
        assert data(client.get("/api/v1/good")) == "good" and client.get("/api/v1/other").status_code == 404
    assert "plugin b.good is left out: the name 'good' is taken by the plugin in a.good" in caplog.text
    assert "GET /api/v1/good is offered by good.Good.good and by again.Good.good" in caplog.text


def test_all_that_is_required_and_missing_is_in_one_error(write: Write) -> None:
    write(good=GOOD)
    write(["/api/v1/goof", "x.Y.z", "/api/v1/good"], other=OTHER)
    with pytest.raises(PluginDependencyError) as caught:
        service(load_plugins=["good", "other"])
    assert caught.value.missing == [("other", "/api/v1/goof", "/api/v1/good"), ("other", "x.Y.z", "")]
    assert "other requires '/api/v1/goof'; is '/api/v1/good' meant?" in str(caught.value)


def test_plugins_start_by_priority_and_end_the_other_way(write: Write, place: Path) -> None:
    text = """
    import pathlib
    __plugin_meta__.priority = {priority}
    @on_register()
    class P(BasePlugin):
        async def on_start(self): self.say("start")
        async def on_stop(self): self.say("stop")
        def say(self, what):
            with open("said", "a") as file: file.write(what + "{priority} ")
    """
    write(low=text.format(priority=1), high=text.format(priority=5))
    with TestClient(service(load_plugins=["low", "high"])):
        pass
    assert (place / "said").read_text() == "start5 start1 stop1 stop5 "


def test_a_plugins_table_is_checked(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    text = GOOD.replace('return "good"', "return self.config.greeting + get_plugin_config('good', C).greeting") + (
        "\nclass C(BaseModel):\n    greeting: str = 'hi'\n    token: int = 0\n__plugin_meta__.config_class = C\n"
    )
    write(good=text)
    flags = {"plugins.good.greeting": "ho", "plugins.good.ingress_config": {"max_ongoing_requests": 2}}
    with TestClient(service(load_plugins=["good"], flags=flags)) as client:
        assert data(client.get("/api/v1/good")) == "hoho"
    with pytest.raises(PluginLoadError, match=r"\[plugins.good\] has no setting 'greting'. Did you mean 'greeting'"):
        service(load_plugins=["good"], strict=True, flags={"plugins.good.greting": "ho"})
    with pytest.raises(PluginLoadError, match="token: input should be a valid integer") as caught:
        service(load_plugins=["good"], strict=True, flags={"plugins.good.token": "sesame"})
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: on_register(max_ongoing_request=1), "Is 'max_ongoing_requests' meant"),
        (lambda: on_request(""), "needs a path"),
        (lambda: on_request(), "needs a path"),
        (lambda: on_request("/x", call_type=ApiType.FUNC), "needs call_type HTTP or ALL"),
        (lambda: on_request("/x", methods=["FETCH"]), "no methods"),
        (lambda: on_request("/x", methods=["PUT"], cache={}), "only routes of GET and POST"),
        (lambda: on_request("/x", cache={"tll": 1}), "no options"),
        (lambda: on_request("/x", cache={"ttl": 0}), "ttl must be"),
    ],
)
def test_wrong_decorators_say_so_where_they_stand(make: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        make()


def test_a_wrong_engine_or_builtin_is_named(place: Path) -> None:
    with pytest.raises(ConfigError, match="no engine 'lokal'; there are: inline, local, ray"):
        run(test_mode=True, engine="lokal")
    with pytest.raises(ConfigError, match="no built-in plugin 'x'"):
        service(load_builtin_plugins=["x"])
