"""Configurations in a session: what is deployed, what stays as it is, and what goes wrong."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs_serve import write_module

import skate
from skate import serve
from skate.serve import admin, context, rest
from skate.serve.config_file import ServeDeploySchema
from skate.serve.fields import SchemaError

QUIET = {"proxy_location": "Disabled"}  # another program of this machine may listen at the usual port


@pytest.fixture
def folder(tmp_path: Path, clean: None) -> Iterator[Path]:
    write_module(tmp_path, "shop")
    yield tmp_path
    admin.put({"applications": [], **QUIET})


def config(folder: Path, *deployments: dict[str, Any], **app: Any) -> dict[str, Any]:
    fields = {
        "import_path": "shop:app",
        "route_prefix": None,
        "runtime_env": {"working_dir": str(folder)},
        "deployments": list(deployments),
    }
    return {"applications": [{**fields, **app}], **QUIET}


def put(config: dict[str, Any]) -> tuple[str, str]:
    (name,) = admin.put(config)
    return admin.settled([name], 30)[name]


def answer(name: str = "default") -> dict[str, Any]:
    found: dict[str, Any] = serve.get_app_handle(name).remote().result(timeout_s=60)
    return found


def processes() -> tuple[int, int]:
    found = answer()
    return found["outer"], found["inner"]


def test_only_what_changed_is_updated(folder: Path) -> None:
    assert put(config(folder)) == ("RUNNING", "")
    first = answer()
    assert (first["size"], first["text"], first["cwd"]) == (1, "one", str(folder))
    before = processes()

    assert put(config(folder))[0] == "RUNNING"
    assert processes() == before  # nothing changed

    assert put(config(folder, {"name": "Inner", "user_config": {"a": 1}}))[0] == "RUNNING"
    assert answer()["config"] == {"a": 1} and processes() == before

    assert put(config(folder, {"name": "Inner", "user_config": {"a": 1}, "num_replicas": 2}))[0] == "RUNNING"
    running = serve.status().applications["default"].deployments["Inner"].replica_states
    assert running["RUNNING"] == 2 and before[1] in {answer()["inner"] for _ in range(30)}

    assert put(config(folder, import_path="shop:build", args={"size": 7}))[0] == "RUNNING"
    assert answer()["size"] == 7 and not set(processes()) & set(before)


def test_new_code_is_seen(folder: Path) -> None:
    assert put(config(folder))[0] == "RUNNING"
    write_module(folder, "shop", "two")
    assert put(config(folder))[0] == "RUNNING"
    assert answer()["text"] == "two"


def test_environments_of_applications_reach_their_deployments(folder: Path) -> None:
    environment = {"working_dir": f"local://{folder}", "env_vars": {"SERVE_TEST": "yes"}}
    assert put(config(folder, runtime_env=environment))[0] == "RUNNING"
    assert answer()["variable"] == "yes"


def test_typed_arguments(folder: Path) -> None:
    assert put(config(folder, import_path="shop.typed", args={"size": "3"}))[0] == "RUNNING"
    assert answer()["size"] == (3, "x")


WRONG = [
    ({"import_path": "shop:ap"}, "did you mean app?"),
    ({"import_path": "shopp:app"}, "There is no module 'shopp'"),
    ({"import_path": "shop:number"}, "neither an application nor a function"),
    ({"import_path": "shop:Outer"}, "shop:Outer.bind()"),
    ({"import_path": "shop:other"}, "must return what Deployment.bind() gives"),
    ({"import_path": "shop:failing"}, "LookupError: no such model"),
    ({"import_path": "shop:typed", "args": {"size": "many"}}, "args do not fit Args"),
    ({"import_path": "shop:typed"}, "args do not fit Args"),
    ({"args": {"size": 3}}, "args are for functions"),
    ({"deployments": [{"name": "Iner"}]}, "deployments[0].name: there is no deployment 'Iner'; did you mean Inner?"),
    ({"runtime_env": {"working_dir": "/nowhere"}}, "runtime_env.working_dir: there is no directory '/nowhere'"),
]


def test_what_cannot_be_built_says_why_and_what_runs_goes_on(folder: Path) -> None:
    assert put(config(folder))[0] == "RUNNING"
    before = processes()
    for wrong, why in WRONG:
        status, message = put(config(folder, **wrong))
        assert status == "DEPLOY_FAILED" and why in message, wrong
        assert processes() == before
    (folder / "shop.py").write_text("import nothing_of_this_name\n")
    status, message = put(config(folder))
    assert status == "DEPLOY_FAILED" and "No module named 'nothing_of_this_name'" in message and "shop.py" in message
    assert serve.status().applications["default"].message == message
    write_module(folder, "shop")
    assert put(config(folder)) == ("RUNNING", "")
    assert processes() == before


def test_a_first_deploy_that_fails_is_shown_and_can_be_deleted(folder: Path) -> None:
    assert put(config(folder, import_path="shop:nothing", name="new"))[0] == "DEPLOY_FAILED"
    assert serve.status().applications["new"].status == "DEPLOY_FAILED"
    serve.delete("new")
    assert "new" not in serve.status().applications


def test_applications_that_are_not_in_the_next_configuration_go_and_others_stay(
    folder: Path, eventually: Callable[..., None]
) -> None:
    @serve.deployment
    def own() -> str:
        return "own"

    handle = serve.run(own.bind(), name="own", route_prefix=None)
    apps = [{**config(folder)["applications"][0], "name": name} for name in ("one", "two")]
    names = admin.put({"applications": apps})
    assert {status for status, _ in admin.settled(names, 30).values()} == {"RUNNING"}
    admin.put({"applications": apps[:1]})
    eventually(lambda: set(serve.status().applications) == {"own", "one"})
    assert handle.remote().result(timeout_s=60) == "own" and answer("one")["size"] == 1


def test_a_program_can_take_an_application_over(folder: Path) -> None:
    assert put(config(folder))[0] == "RUNNING"

    @serve.deployment
    def own() -> str:
        return "own"

    handle = serve.run(own.bind(), route_prefix=None)
    assert handle.remote().result(timeout_s=60) == "own"
    admin.put({"applications": [], **QUIET})
    assert handle.remote().result(timeout_s=60) == "own"
    assert admin.details()["applications"]["default"]["source"] == "imperative"


def test_a_wrong_configuration_changes_nothing(folder: Path) -> None:
    assert put(config(folder))[0] == "RUNNING"
    with pytest.raises(SchemaError, match=r"applications\[0\].import_path"):
        admin.put({"applications": [{"import_path": ""}]})
    assert answer()["size"] == 1


def test_the_controller_comes_back_with_what_was_declared(folder: Path, eventually: Callable[..., None]) -> None:
    assert put(config(folder))[0] == "RUNNING"
    before = processes()
    skate.kill(context.controller(), no_restart=False)
    eventually(lambda: admin.details()["applications"].get("default", {}).get("status") == "RUNNING")
    details = admin.details()["applications"]["default"]
    assert details["source"] == "declarative" and details["deployed_app_config"]["import_path"] == "shop:app"
    assert processes() == before
    admin.put({"applications": [], **QUIET})
    eventually(lambda: not serve.status().applications)


def test_a_build_that_was_under_way_is_taken_up_by_the_next_controller(folder: Path) -> None:
    admin.put(config(folder))
    skate.kill(context.controller(), no_restart=False)
    assert admin.settled(["default"], 30)["default"] == ("RUNNING", "")
    assert answer()["size"] == 1


# ------------------------------------------------------------- REST


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    host, port = rest.start(port=0)
    yield f"http://{host}:{port}"
    rest.stop()


def ask(url: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, str]:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_rest_interface_deploys_shows_scales_and_deletes(
    url: str, folder: Path, eventually: Callable[..., None]
) -> None:
    place = f"{url}/api/serve/applications/"
    status, text = ask(place, "PUT", config(folder, external_scaler_enabled=True))
    assert (status, text) == (200, "")
    assert admin.settled(["default"], 30)["default"][0] == "RUNNING"
    found = json.loads(ask(place)[1])
    app = found["applications"]["default"]
    assert app["status"] == "RUNNING" and app["deployed_app_config"]["import_path"] == "shop:app"
    outer = app["deployments"]["Outer"]
    assert outer["replicas"][0]["pid"] == answer()["outer"] and outer["replicas"][0]["state"] == "RUNNING"
    assert json.loads(ask(f"{place}?api_type=imperative")[1])["applications"] == {}
    assert ask(f"{place}?api_type=nonsense")[0] == 400

    scale = f"{url}/api/v1/applications/default/deployments/Inner/scale"
    assert ask(scale, "POST", {"target_num_replicas": 2})[0] == 200
    eventually(lambda: serve.status().applications["default"].deployments["Inner"].replica_states == {"RUNNING": 2})
    assert ask(scale, "POST", {"target_num_replicas": -1})[0] == 400
    assert ask(scale.replace("Inner", "Nothing"), "POST", {"target_num_replicas": 1})[0] == 404
    assert 'ray_serve_deployment_replicas{deployment="Inner"' in ask(f"{url}/metrics")[1]

    assert ask(place, "PUT", config(folder)) == (200, "")
    assert admin.settled(["default"], 30)["default"][0] == "RUNNING"
    assert ask(scale, "POST", {"target_num_replicas": 2})[0] == 412
    assert ask(place, "PUT", {"applications": [], **QUIET}) == (200, "")
    eventually(lambda: json.loads(ask(place)[1])["applications"] == {})


def test_the_rest_interface_refuses_what_is_wrong_or_of_another_origin(url: str) -> None:
    place = f"{url}/api/serve/applications/"
    assert ask(place, "PUT", {"applications": [{}]}) == (400, "applications[0].import_path: is required")
    assert ask(place, "PUT", b"{")[0] == 400
    assert ask(place, "PATCH")[0] == 405
    assert ask(f"{url}/nothing")[0] == 404
    assert ask(place, Origin="http://elsewhere.example")[0] == 403
    assert ask(place, Host="elsewhere.example")[0] == 403
    assert ask(place, "PUT", b" " * (rest.LARGEST + 1))[0] == 413


def test_a_token_is_wanted_where_there_is_one(clean: None) -> None:
    host, port = rest.start(port=0, token="secret")
    try:
        place = f"http://{host}:{port}/api/serve/applications/"
        assert ask(place)[0] == 401
        assert ask(place, Authorization="Bearer wrong")[0] == 401
        assert ask(place, Authorization="Bearer secret")[0] == 200
    finally:
        rest.stop()


def test_others_need_a_token_and_a_port_that_is_taken_is_named(clean: None) -> None:
    with pytest.raises(ValueError, match="SKATE_SERVE_TOKEN"):
        rest.start("0.0.0.0", 0)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        rest.start(port=taken.getsockname()[1])


def test_what_runs_fits_the_schema(folder: Path) -> None:
    assert put(config(folder, {"name": "Inner", "num_replicas": "auto", "autoscaling_config": {"max_replicas": 2}}))
    app = admin.details()["applications"]["default"]
    assert ServeDeploySchema(applications=[app["deployed_app_config"]]).applications[0].import_path == "shop:app"
    assert app["deployments"]["Inner"]["deployment_config"]["autoscaling_config"]["max_replicas"] == 2
