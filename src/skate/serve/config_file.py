"""What a configuration of Serve may say: the classes of `ray.serve.schema` for files and for the REST interface.

`skate.serve.fields` says how wrong ones are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from skate.serve.config import HTTPOptions, check_logging, gRPCOptions
from skate.serve.deployments import deployment
from skate.serve.fields import Schema, SchemaError, plain

DEFAULT_APP = "default"


class LoggingConfig(Schema):
    """How Serve logs.

    Args:
        encoding: "TEXT" or "JSON".
        log_level: a name or number of `logging`.
        logs_dir: a directory for files of their own; None: the session's.
        enable_access_log: a line for each request.
        additional_log_standard_attrs: further attributes of `logging.LogRecord` in JSON.
    """

    encoding: str = "TEXT"
    log_level: int | str = "INFO"
    logs_dir: str | None = None
    enable_access_log: bool = True
    additional_log_standard_attrs: list[str] = []  # noqa: RUF012  defaults are copied

    def _check(self) -> None:
        try:
            check_logging(self.given())
        except (ValueError, TypeError) as error:
            raise SchemaError(str(error).removeprefix("logging_config.")) from None


class RayActorOptionsSchema(Schema):
    """Options of replicas' actors, as `skate.remote` has them."""

    runtime_env: dict[str, Any] = {}  # noqa: RUF012  defaults are copied
    num_cpus: int | float | None = None
    num_gpus: int | float | None = None
    memory: int | float | None = None
    resources: dict[str, int | float] | None = None
    accelerator_type: str | None = None
    label_selector: dict[str, str] | None = None
    fallback_strategy: list[dict[str, Any]] | None = None


class DeploymentSchema(Schema):
    """Options of a deployment that go over those in the code: see `skate.serve.config.DeploymentConfig`."""

    name: str
    num_replicas: int | Literal["auto"] | None = None
    max_ongoing_requests: int = 5
    max_queued_requests: int = -1
    user_config: Any = None
    autoscaling_config: dict[str, Any] | None = None
    graceful_shutdown_wait_loop_s: float = 2.0
    graceful_shutdown_timeout_s: float = 20.0
    health_check_period_s: float = 10.0
    health_check_timeout_s: float = 30.0
    ray_actor_options: RayActorOptionsSchema = RayActorOptionsSchema()
    placement_group_bundles: list[dict[str, float]] | None = None
    placement_group_strategy: str | None = None
    placement_group_bundle_label_selector: list[dict[str, str]] | None = None
    backpressure_config: dict[str, Any] | None = None
    request_router_config: dict[str, Any] | None = None
    gang_scheduling_config: dict[str, Any] | None = None
    deployment_actors: list[dict[str, Any]] | None = None
    max_replicas_per_node: int | None = None
    logging_config: LoggingConfig | None = None
    max_constructor_retry_count: int = 20
    rolling_update_percentage: float = 0.2
    max_surge_percent: int = 20

    def options(self) -> dict[str, Any]:
        """What was given, as `Deployment.options` takes it."""
        return {name: plain(value, True) for name, value in self.given().items()}

    def _check(self) -> None:
        deployment(**self.options())(_nothing)


def _nothing() -> None:
    """Stands for a deployment's code while options are checked."""


class ServeApplicationSchema(Schema):
    """An application.

    Args:
        name: its name, not empty.
        route_prefix: paths that begin so belong to it; None: it has no HTTP.
        import_path: ``module:name`` or ``module.name`` of what `Deployment.bind` gave, or of a function that returns
            such a thing.
        runtime_env: for its replicas, under what deployments have themselves.
        args: for the function.
        deployments: options that go over those in the code.
        logging_config: for its deployments.
    """

    name: str = DEFAULT_APP
    route_prefix: str | None = "/"
    import_path: str
    runtime_env: dict[str, Any] = {}  # noqa: RUF012  defaults are copied
    deployments: list[DeploymentSchema] = []  # noqa: RUF012
    args: dict[str, Any] = {}  # noqa: RUF012
    logging_config: LoggingConfig | None = None
    external_scaler_enabled: bool = False

    _only_in_ray = frozenset({"autoscaling_policy"})

    @property
    def deployment_names(self) -> list[str]:
        """The deployments that have options here."""
        return [each.name for each in self.deployments]

    @classmethod
    def _unknown(cls, name: str) -> str:
        if name in ("host", "port"):
            return "this stands in http_options, for all applications"
        return super()._unknown(name)

    def _check(self) -> None:
        if not self.name:
            raise SchemaError("must not be empty", "name")
        check_prefix(self.route_prefix)
        split_import_path(self.import_path)
        for name in self.deployment_names:
            if self.deployment_names.count(name) > 1:
                raise SchemaError(f"there are several deployments of the name {name!r}", "deployments")
        if self.external_scaler_enabled:
            for place, each in enumerate(self.deployments):
                if each.num_replicas == "auto" or each.autoscaling_config is not None:
                    raise SchemaError(
                        "external_scaler_enabled and autoscaling exclude each other", f"deployments[{place}]"
                    )


def check_prefix(prefix: str | None) -> None:
    """SchemaError for a route prefix that is none."""
    if prefix is None:
        return
    if not prefix.startswith("/"):
        raise SchemaError(f"must begin with '/', not {prefix!r}", "route_prefix")
    if len(prefix) > 1 and prefix.endswith("/"):
        raise SchemaError(f"must not end with '/': {prefix!r}", "route_prefix")
    if "{" in prefix or "}" in prefix:
        raise SchemaError(f"may not have wildcards: {prefix!r}", "route_prefix")


def split_import_path(path: str) -> tuple[str, str]:
    """Module and name in it, of ``module:name`` or ``module.name``. SchemaError for what is neither."""
    module, colon, name = path.partition(":")
    if not colon:
        module, _, name = path.rpartition(".")
    if not module or not name or ":" in name or "" in module.split(".") or "" in name.split("."):
        raise SchemaError(f"module:name or module.name is wanted, not {path!r}", "import_path")
    return module, name


class gRPCOptionsSchema(Schema):
    """Where gRPC is served: see `skate.serve.config.gRPCOptions`."""

    port: int = 9000
    grpc_servicer_functions: list[str] = []  # noqa: RUF012
    request_timeout_s: float | None = None

    _only_in_ray = frozenset({"enable_reflection"})

    def _check(self) -> None:
        _by_class(gRPCOptions, self, "grpc_options.")


class HTTPOptionsSchema(Schema):
    """Where HTTP is served: see `skate.serve.config.HTTPOptions`."""

    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = ""
    request_timeout_s: float | None = None
    keep_alive_timeout_s: float = 5
    max_body_bytes: int | None = None
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None

    def _check(self) -> None:
        _by_class(HTTPOptions, self, "http_options.")


def _by_class(options: Any, schema: Schema, prefix: str) -> None:
    try:
        options(**schema.given())
    except (ValueError, TypeError) as error:
        raise SchemaError(str(error).removeprefix(prefix)) from None


class ServeDeploySchema(Schema):
    """A configuration: all the applications that there are to be, and how Serve is reached.

    Args:
        applications: those of earlier configurations that are not among them are deleted.
        proxy_location: "HeadOnly", "EveryNode" (on one machine the same) or "Disabled": no HTTP.
        http_options, grpc_options: they hold when Serve starts, and do not change after that.
        logging_config: how Serve logs.
    """

    proxy_location: Literal["Disabled", "HeadOnly", "EveryNode"] = "EveryNode"
    http_options: HTTPOptionsSchema = HTTPOptionsSchema()
    grpc_options: gRPCOptionsSchema = gRPCOptionsSchema()
    logging_config: LoggingConfig | None = None
    applications: list[ServeApplicationSchema]

    _only_in_ray = frozenset({"controller_options", "tracing_config", "target_capacity"})

    def _check(self) -> None:
        for attribute in ("name", "route_prefix"):
            seen: dict[str, int] = {}
            for place, app in enumerate(self.applications):
                value = getattr(app, attribute)
                if value is not None and value in seen:
                    raise SchemaError(
                        f"{value!r} belongs to applications[{seen[value]}] already",
                        f"applications[{place}].{attribute}",
                    )
                seen[value] = place


class ScaleDeploymentRequest(Schema):
    """How many replicas an external scaler wants."""

    target_num_replicas: int

    def _check(self) -> None:
        if self.target_num_replicas < 0:
            raise SchemaError("must be at least 0", "target_num_replicas")


def read_file(path: str) -> ServeDeploySchema:
    """The configuration in a file of YAML or JSON.

    Raises OSError when it cannot be read, SchemaError for what is wrong in it, ImportError without PyYAML (JSON needs
    it not).
    """
    found = read_mapping(path)
    return ServeDeploySchema.model_validate({} if found is None else found)


def read_mapping(path: str) -> Any:
    """What a file of YAML or JSON has. Raises as `read_file` does."""
    with open(path, "rb") as file:
        text = file.read()
    if path.endswith(".json"):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise SchemaError(f"{path} is no JSON: {error}") from None
    yaml = _yaml()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SchemaError(f"{path} is no YAML: {error}") from None


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("Files of YAML need PyYAML: pip install 'skate-ray[serve]'. JSON works without.") from error
    return yaml


def to_yaml(config: Mapping[str, Any]) -> str:
    """As a file has it: a blank line between the fields of the outermost mapping, text of several lines as a block."""
    yaml = _yaml()
    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})
    dumper.add_representer(
        str,
        lambda made, text: made.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
    )
    parts = [yaml.dump({name: value}, Dumper=dumper, sort_keys=False, width=100) for name, value in config.items()]
    return "\n".join(parts)
