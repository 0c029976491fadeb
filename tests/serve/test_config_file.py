"""Configurations: what they may say, and how wrong ones are refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skate.serve.config import DeploymentConfig, HTTPOptions, gRPCOptions
from skate.serve.config_file import (
    DeploymentSchema,
    HTTPOptionsSchema,
    LoggingConfig,
    ServeApplicationSchema,
    ServeDeploySchema,
    gRPCOptionsSchema,
    read_file,
    split_import_path,
    to_yaml,
)
from skate.serve.fields import SchemaError


def app(**fields: Any) -> dict[str, Any]:
    return {"applications": [{"import_path": "module:app", **fields}]}


def deployment(**fields: Any) -> dict[str, Any]:
    return app(deployments=[{"name": "first"}, {"name": "second", **fields}])


SECOND = "applications[0].deployments[1]"
WRONG: list[tuple[Any, str, str]] = [
    (None, "", "a mapping is wanted"),
    ([], "", "a mapping is wanted"),
    ({1: 2}, "", "fields have names"),
    ({}, "applications", "is required"),
    ({"applications": {}}, "applications", "a list is wanted"),
    ({"applications": [3]}, "applications[0]", "a mapping is wanted, not 3"),
    ({"applications": [{}]}, "applications[0].import_path", "is required"),
    ({"applications": [], "http_option": {}}, "http_option", "did you mean http_options?"),
    ({"applications": [], "http_options": {"prot": 1}}, "http_options.prot", "did you mean port?"),
    ({"applications": [], "http_options": {"port": "80"}}, "http_options.port", "expected `int`"),
    ({"applications": [], "http_options": {"port": 70000}}, "http_options", "port must be at most 65535"),
    ({"applications": [], "proxy_location": "Moon"}, "proxy_location", "'HeadOnly'"),
    ({"applications": [], "logging_config": {"encoding": "XML"}}, "logging_config", "encoding"),
    ({"applications": [], "tracing_config": {}}, "tracing_config", "Ray Serve has this field, Skate does not"),
    (app(nam="x"), "applications[0].nam", "did you mean name?"),
    (app(name=""), "applications[0].name", "must not be empty"),
    (app(import_path="module"), "applications[0].import_path", "module:name"),
    (app(route_prefix="x"), "applications[0].route_prefix", "must begin with '/'"),
    (app(route_prefix="/x/"), "applications[0].route_prefix", "must not end with '/'"),
    (app(route_prefix="/{x}"), "applications[0].route_prefix", "wildcards"),
    (app(port=8000), "applications[0].port", "http_options"),
    (app(args=[1]), "applications[0].args", "expected `object`"),
    ({"applications": [*app()["applications"] * 2]}, "applications[1].name", "'default' belongs to applications[0]"),
    (
        {"applications": [*app()["applications"], *app(name="other")["applications"]]},
        "applications[1].route_prefix",
        "'/' belongs to applications[0]",
    ),
    (app(deployments=[{}]), "applications[0].deployments[0].name", "is required"),
    (deployment(num_replica=1), f"{SECOND}.num_replica", "did you mean num_replicas?"),
    (deployment(num_replicas="many"), f"{SECOND}.num_replicas", "'auto' is wanted"),
    (deployment(num_replicas=0), SECOND, "num_replicas must be at least 1"),
    (deployment(num_replicas=2, autoscaling_config={"min_replicas": 1}), SECOND, "exclude each other"),
    (deployment(autoscaling_config={"min_replicas": 3, "max_replicas": 2}), SECOND, "max_replicas (2)"),
    (deployment(autoscaling_config={"min_replica": 3}), SECOND, "'min_replica'"),
    (deployment(max_ongoing_requests=0), SECOND, "max_ongoing_requests must be at least 1"),
    (deployment(ray_actor_options={"num_cpu": 1}), f"{SECOND}.ray_actor_options.num_cpu", "did you mean num_cpus?"),
    (deployment(ray_actor_options={"num_cpus": "1"}), f"{SECOND}.ray_actor_options.num_cpus", "expected"),
    (deployment(deployment_actors=[{"name": "a"}]), SECOND, "deployment_actors[0].actor_class is required"),
    (app(deployments=[{"name": "a"}, {"name": "a"}]), "applications[0].deployments", "'a'"),
    (
        app(external_scaler_enabled=True, deployments=[{"name": "a", "num_replicas": "auto"}]),
        "applications[0].deployments[0]",
        "external_scaler_enabled",
    ),
]


@pytest.mark.parametrize(("config", "field", "problem"), WRONG, ids=[f"{field}-{text}" for _, field, text in WRONG])
def test_what_is_wrong_is_refused_with_its_place(config: Any, field: str, problem: str) -> None:
    with pytest.raises(SchemaError) as caught:
        ServeDeploySchema.model_validate(config)
    assert caught.value.field == field
    assert problem in caught.value.problem
    assert str(caught.value).startswith(field)


def test_a_whole_configuration() -> None:
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"port": 8001, "root_path": "/serve"},
        "grpc_options": {"port": 9001, "grpc_servicer_functions": ["module.add"]},
        "logging_config": {"encoding": "JSON", "log_level": "DEBUG", "enable_access_log": False},
        "applications": [
            {
                "name": "one",
                "route_prefix": "/one",
                "import_path": "package.module:app",
                "runtime_env": {"env_vars": {"A": "1"}},
                "args": {"path": "x", "number": 3},
                "deployments": [
                    {
                        "name": "Model",
                        "num_replicas": "auto",
                        "autoscaling_config": {"max_replicas": 3},
                        "user_config": {"threshold": 0.5},
                        "ray_actor_options": {"num_cpus": 0.5, "resources": {"disk": 1}},
                        "health_check_period_s": 5.0,
                    }
                ],
            },
            {"name": "two", "route_prefix": None, "import_path": "module.builder"},
        ],
    }
    read = ServeDeploySchema.model_validate(config)
    assert read.model_dump(exclude_unset=True) == config
    assert ServeDeploySchema.model_validate(read.model_dump(exclude_unset=True)) == read
    assert read.applications[0].deployment_names == ["Model"]
    assert read.applications[1].args == {} and read.http_options.host == "127.0.0.1"


def test_keywords_are_checked_as_files_are() -> None:
    made = ServeApplicationSchema(import_path="a:b", deployments=[{"name": "x", "num_replicas": 2}])
    assert made.deployments[0].options() == {"name": "x", "num_replicas": 2}
    with pytest.raises(SchemaError, match="log_level"):
        LoggingConfig(log_level="LOUD")


def test_defaults_are_not_shared() -> None:
    one = ServeApplicationSchema(import_path="a:b")
    one.args["x"] = 1
    assert ServeApplicationSchema(import_path="a:b").args == {}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["applications", "name", "import_path", "deployments", "http_options", "port", "num_replicas", "x"]),
        inner, max_size=4), max_leaves=15))  # fmt: skip
def test_nonsense_is_refused_and_nothing_worse(config: Any) -> None:
    try:
        read = ServeDeploySchema.model_validate(config)
    except SchemaError:
        return
    assert ServeDeploySchema.model_validate(read.model_dump(exclude_unset=True)) == read


@pytest.mark.parametrize("path", ["", ":", "a", "a:", ":b", "a:b:c", ".b", "a.", "a..b", "a:b..c"])
def test_import_paths_that_are_none(path: str) -> None:
    with pytest.raises(SchemaError, match="import_path"):
        split_import_path(path)


def test_import_paths() -> None:
    assert split_import_path("a.b:c.d") == ("a.b", "c.d")
    assert split_import_path("a.b.c") == ("a.b", "c")


def test_files(tmp_path: Path) -> None:
    config = app(deployments=[{"name": "a", "user_config": {"text": "two\nlines"}}])
    yaml_file, json_file = tmp_path / "config.yaml", tmp_path / "config.json"
    yaml_file.write_text(to_yaml(config))
    json_file.write_text('{"applications": [{"import_path": "module:app", "deployments": [{"name": "a", '
                         '"user_config": {"text": "two\\nlines"}}]}]}')  # fmt: skip
    assert read_file(str(yaml_file)) == read_file(str(json_file)) == ServeDeploySchema.model_validate(config)


@pytest.mark.parametrize(("name", "text"), [("a.yaml", "a: [1"), ("a.json", "{"), ("a.yaml", ""), ("a.yaml", "- 1")])
def test_files_that_cannot_be_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SchemaError):
        read_file(str(tmp_path / name))


def test_configurations_may_say_all_that_code_may() -> None:
    """What only programs can say: middlewares, which are objects; where proxies are, which is a field of its own."""
    for code, schema, own in (
        (DeploymentConfig, DeploymentSchema, {"name"}),
        (HTTPOptions, HTTPOptionsSchema, {"middlewares", "location", "num_cpus", "root_url"}),
        (gRPCOptions, gRPCOptionsSchema, set()),
    ):
        assert {entry.name for entry in fields(code)} ^ set(schema._fields()) == own
