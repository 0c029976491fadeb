"""What a configuration of Serve may say: the classes of `ray.serve.schema` for files and for the REST interface.

Every value is checked when an object is made, from keywords or by `model_validate`. What is wrong raises `SchemaError`,
which names the place, as in ``applications[0].deployments[1].num_replicas``; an unknown field is refused with the name
that comes nearest.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from copy import deepcopy
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, dataclass_transform, get_args, get_origin, get_type_hints

import msgspec

from skate.serve.config import HTTPOptions, check_logging, gRPCOptions
from skate.serve.deployment import deployment

DEFAULT_APP = "default"


class SchemaError(ValueError):
    """A configuration that cannot be used; the message begins with the field."""

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.problem = problem
        self.field = field

    def under(self, name: str) -> SchemaError:
        """The same for the object around."""
        joint = "." if self.field and not self.field.startswith("[") else ""
        return SchemaError(self.problem, f"{name}{joint}{self.field}")


@dataclass_transform(kw_only_default=True)
class Schema:
    """Fields with types and defaults, given by keyword; which of them were given is in `model_fields_set`."""

    _hints: ClassVar[dict[str, Any]]
    _only_in_ray: ClassVar[frozenset[str]] = frozenset()
    """Fields that Ray has and Skate does not."""

    def __init_subclass__(cls) -> None:
        cls._hints = {}

    @classmethod
    def _fields(cls) -> dict[str, Any]:
        if not cls._hints:
            hints = get_type_hints(cls)
            cls._hints = {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}
        return cls._hints

    def __init__(self, **given: Any) -> None:
        fields = self._fields()
        for name in given:
            if name not in fields:
                raise SchemaError(self._unknown(name), name)
        for name, hint in fields.items():
            if name in given:
                try:
                    value = _converted(given[name], hint)
                except SchemaError as error:
                    raise error.under(name) from None
            elif hasattr(type(self), name):
                value = deepcopy(getattr(type(self), name))
            else:
                raise SchemaError("is required", name)
            setattr(self, name, value)
        self.model_fields_set = frozenset(given)
        try:
            self._check()
        except SchemaError:
            raise
        except (ValueError, TypeError) as error:
            raise SchemaError(str(error)) from None

    @classmethod
    def _unknown(cls, name: str) -> str:
        if name in cls._only_in_ray:
            return "Ray Serve has this field, Skate does not"
        near = difflib.get_close_matches(name, cls._fields(), 1)
        return f"there is no such field; {f'did you mean {near[0]}?' if near else 'there are: '}" + (
            "" if near else ", ".join(cls._fields())
        )

    def _check(self) -> None:
        """Raise ValueError or TypeError for values that do not go together."""

    @classmethod
    def model_validate(cls, given: Any) -> Self:
        """An object from a mapping, such as a file gives. Raises SchemaError."""
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise SchemaError(f"a mapping is wanted, not {_shown(given)}")
        for name in given:
            if not isinstance(name, str):
                raise SchemaError(f"fields have names, and {name!r} is none")
        return cls(**given)

    def model_dump(self, *, exclude_unset: bool = False) -> dict[str, Any]:
        """The fields as plain values; with `exclude_unset` those alone that were given."""
        names = [name for name in self._fields() if name in self.model_fields_set or not exclude_unset]
        return {name: _plain(getattr(self, name), exclude_unset) for name in names}

    def given(self) -> dict[str, Any]:
        """The fields that were given, as they are."""
        return {name: getattr(self, name) for name in self._fields() if name in self.model_fields_set}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.model_dump() == self.model_dump()  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.given().items())})"


def _converted(value: Any, hint: Any) -> Any:
    """`value` as a field with this type takes it."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return None
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Schema):
            return kind.model_validate(value)
        if get_origin(kind) is list and issubclass(item := get_args(kind)[0], Schema):
            if not isinstance(value, list | tuple):
                raise SchemaError(f"a list is wanted, not {_shown(value)}")
            return [_item(entry, item, place) for place, entry in enumerate(value)]
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        raise SchemaError(f"{text[0].lower()}{text[1:]}", path.rstrip("`").removeprefix(".")) from None


def _item(value: Any, kind: type[Schema], place: int) -> Schema:
    try:
        return kind.model_validate(value)
    except SchemaError as error:
        raise error.under(f"[{place}]") from None


def _plain(value: Any, exclude_unset: bool) -> Any:
    if isinstance(value, Schema):
        return value.model_dump(exclude_unset=exclude_unset)
    if isinstance(value, list):
        return [_plain(item, exclude_unset) for item in value]
    return deepcopy(value)


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!r} ({type(value).__name__})"


# ------------------------------------------------------------- the classes


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
        check_logging(self.given())


class RayActorOptionsSchema(Schema):
    """Options of replicas' actors, as `skate.remote` has them."""

    runtime_env: dict[str, Any] = {}  # noqa: RUF012  defaults are copied
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: dict[str, float] | None = None
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
    max_replicas_per_node: int | None = None
    logging_config: LoggingConfig | None = None
    max_constructor_retry_count: int = 20

    _only_in_ray = frozenset(
        {
            *("backpressure_config", "placement_group_bundle_label_selector", "request_router_config"),
            *("gang_scheduling_config", "deployment_actors", "rolling_update_percentage", "max_surge_percent"),
        }
    )

    def options(self) -> dict[str, Any]:
        """What was given, as `Deployment.options` takes it."""
        return {name: _plain(value, True) for name, value in self.given().items()}

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


class gRPCOptionsSchema(Schema):  # noqa: N801  the name is Ray's
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
        for attribute, word in (("name", "of the name"), ("route_prefix", "with route_prefix")):
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
    with open(path, "rb") as file:
        text = file.read()
    try:
        found = msgspec.json.decode(text) if path.endswith(".json") else _yaml().safe_load(text)
    except (msgspec.DecodeError, ValueError, *_yaml_errors()) as error:
        raise SchemaError(f"{path} cannot be read: {error}") from None
    return ServeDeploySchema.model_validate({} if found is None else found)


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("Files of YAML need PyYAML: pip install 'skate-ray[serve]'. JSON works without.") from error
    return yaml


def _yaml_errors() -> tuple[type[Exception], ...]:
    try:
        import yaml
    except ImportError:
        return ()
    return (yaml.YAMLError,)


def to_yaml(config: Mapping[str, Any]) -> str:
    """As a file has it: a blank line between the fields of the outermost mapping, text of several lines as a block."""
    yaml = _yaml()

    class Dumper(yaml.SafeDumper):  # type: ignore[name-defined, misc]  chosen at run time
        pass

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    parts = [yaml.dump({name: value}, Dumper=Dumper, sort_keys=False, width=100) for name, value in config.items()]
    return "\n".join(parts)
