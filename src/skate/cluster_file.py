"""Files that describe a cluster for Ray's launcher (``skate up cluster.yaml``), checked before anything is started.

What a file may hold are the types below: Ray's own fields, with their types. `read` refuses what Ray would refuse after
minutes, or after machines were paid for, and says in which line it stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

__all__ = ["Cluster", "ClusterFileError", "check", "read"]

Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1)]
Commands = list[str]
Free = dict[str, Any]
"""Whatever the provider takes: not looked into."""

PROVIDERS = ("aws", "gcp", "azure", "local", "aliyun", "vsphere", "spark", "kuberay", "external", "fake_multinode")
"""Kinds of provider that Ray's launcher knows."""


class ClusterFileError(ValueError):
    """What is wrong with a file, and in which line."""


class SecurityGroup(Struct):
    """``provider.security_group`` of AWS."""

    GroupName: str = ""
    IpPermissions: list[Any] = []


class Credentials(Struct):
    """``provider.gcp_credentials``."""

    type: str
    credentials: str = ""


class _Cloud(Struct):
    type: str
    use_internal_ips: bool = False
    cache_stopped_nodes: bool = True
    disable_node_updaters: bool = False
    disable_launch_config_check: bool = False
    worker_liveness_check: bool = True
    worker_rpc_drain: bool = False


class AWS(_Cloud):
    """``provider`` with ``type: aws``."""

    region: str = ""
    availability_zone: str = ""
    security_group: SecurityGroup | None = None
    key_pair: Free = {}
    aws_credentials: Free = {}
    cloudwatch: Free = {}


class GCP(_Cloud):
    """``provider`` with ``type: gcp``."""

    region: str = ""
    availability_zone: str = ""
    project_id: str | None = None
    gcp_credentials: Credentials | None = None


class Azure(_Cloud):
    """``provider`` with ``type: azure``."""

    location: str = ""
    resource_group: str = ""
    availability_zone: str = ""
    subscription_id: str = ""
    tags: Free = {}
    unique_id: str = ""
    subnet_mask: str = ""
    subnet_id: str = ""
    subnet: Any = None
    nsg: Any = None
    msi: Any = None
    msi_name: str = ""
    msi_resource_group: str = ""
    msi_identity_id: str = ""
    msi_identity_principal_id: str = ""
    use_external_head_ip: bool = False


class Local(_Cloud):
    """``provider`` with ``type: local``: machines that are there already."""

    head_ip: str = ""
    worker_ips: list[str] | None = None
    external_head_ip: str = ""
    coordinator_address: str = ""


class Auth(Struct):
    """``auth``: how the launcher gets at the nodes."""

    ssh_user: str = ""
    ssh_private_key: str = ""
    ssh_public_key: str = ""
    ssh_proxy_command: str = ""
    ssh_proxy_use_node_id: bool = False


class Docker(Struct):
    """``docker``: the container in which everything runs."""

    image: str = ""
    head_image: str = ""
    worker_image: str = ""
    container_name: str = ""
    pull_before_run: bool = True
    run_options: list[str] = []
    head_run_options: list[str] = []
    worker_run_options: list[str] = []
    disable_automatic_runtime_detection: bool = False
    disable_shm_size_detection: bool = False
    use_podman: bool = False


class NodeDocker(Struct):
    """``docker`` of a kind of node."""

    pull_before_run: bool = True
    worker_image: str = ""
    worker_run_options: list[str] = []


class NodeType(Struct):
    """An entry of ``available_node_types``."""

    node_config: Free = {}
    """What the provider is asked for: the kind of machine, its image, its disks."""
    resources: dict[str, Count] = {}
    labels: dict[str, str] = {}
    min_workers: Count = 0
    max_workers: Count | None = None
    idle_timeout_s: Amount | None = None
    priority: int = 0
    initialization_commands: Commands = []
    worker_setup_commands: Commands = []
    docker: NodeDocker | None = None


class Cluster(Struct):
    """The whole file."""

    cluster_name: Name
    provider: AWS | GCP | Azure | Local | Free
    max_workers: Count | None = None
    min_workers: Count | None = None
    """Of ``type: local`` alone."""
    upscaling_speed: Amount = 1.0
    idle_timeout_minutes: Amount = 5.0
    auth: Auth = field(default_factory=Auth)
    docker: Docker | None = None
    head_node_type: str = ""
    available_node_types: dict[str, NodeType] = {}
    file_mounts: dict[str, str] = {}
    cluster_synced_files: list[str] = []
    file_mounts_sync_continuously: bool = False
    rsync_exclude: list[str] = []
    rsync_filter: list[str] = []
    metadata: Free = {}
    initialization_commands: Commands = []
    setup_commands: Commands = []
    head_setup_commands: Commands = []
    worker_setup_commands: Commands = []
    head_start_ray_commands: Commands = []
    worker_start_ray_commands: Commands = []


KINDS: dict[str, Any] = {"aws": AWS, "gcp": GCP, "azure": Azure, "local": Local}


class Problem(NamedTuple):
    """Something wrong: the line, counted from 1, and what."""

    line: int
    what: str


def read(path: str | os.PathLike[str]) -> Cluster:
    """The cluster that a file describes.

    Raises:
        OSError: the file cannot be read.
        ClusterFileError: it is no YAML, or says what Ray's launcher does not take; every problem on a line of its own,
            ``FILE, line N: what is wrong``.
        ImportError: PyYAML is not installed (it comes with the extra ``skate-ray[ray]``).
    """
    with open(path, encoding="utf-8") as file:
        return check(file.read(), os.fspath(path))


def check(text: str, name: str = "cluster.yaml") -> Cluster:
    """The same for a file's text; `name` is what errors call it. Raises ClusterFileError and ImportError as `read`."""
    try:
        import yaml
    except ImportError as missing:
        raise ImportError("Reading cluster files needs PyYAML: pip install 'skate-ray[ray]'.") from missing
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise ClusterFileError(f"{name}, line {line}: no YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ClusterFileError(f"{name}: no YAML: {error}") from None
    if root is None:
        raise ClusterFileError(f"{name} is empty.")
    reader = _Reader(yaml, text)
    made: Cluster = reader.struct(root, Cluster, "")
    problems = reader.problems or [
        Problem(reader.line_of(place), what) for place, what in _contradictions(made, reader.given)
    ]
    if problems:
        raise ClusterFileError("\n".join(f"{name}, line {line}: {what}" for line, what in sorted(problems)))
    return made


class _Reader:
    """Goes through a file's nodes beside the types that they must have."""

    def __init__(self, yaml: Any, text: str) -> None:
        self.yaml = yaml
        self.loader = yaml.SafeLoader(text)
        self.problems: list[Problem] = []
        self.given: dict[str, int] = {}
        """The line of everything that was named, by its path in the file."""

    def line_of(self, place: str) -> int:
        """Where something stands, or else what it would stand in."""
        while place and place not in self.given:
            place = place.rpartition(".")[0]
        return self.given.get(place, 1)

    def complain(self, node: Any, what: str) -> None:
        self.problems.append(Problem(node.start_mark.line + 1, what))

    def entries(self, node: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
        """The entries of a table: name, the name's node, the value's node."""
        if not isinstance(node, self.yaml.MappingNode):
            self.complain(node, f"{place or 'the file'} must be a table of names and values, not {self.shown(node)}.")
            return
        self.loader.flatten_mapping(node)  # `<<: *other`
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = str(self.loader.construct_object(key, deep=True))
            if name in seen:
                self.complain(key, f"{_join(place, name)} was said already, in line {seen[name]}.")
                continue
            seen[name] = key.start_mark.line + 1
            self.given[_join(place, name)] = key.start_mark.line + 1
            yield name, key, value

    def struct(self, node: Any, kind: Any, place: str) -> Any:
        """A table as a type of ours; None where something was wrong with it."""
        hints = get_type_hints(kind, include_extras=True)
        found: dict[str, Any] = {}
        before = len(self.problems)
        for name, key, value in self.entries(node, place):
            if name in hints:
                found[name] = self.value(value, hints[name], _join(place, name))
            else:
                self.complain(key, _unknown(name, place, hints))
        for needed in msgspec.structs.fields(kind):
            if needed.required and needed.name not in found and len(self.problems) == before:
                self.complain(node, f"{place or 'the file'} lacks {needed.name!r}.")
        if len(self.problems) > before:
            return None
        return kind(**found)

    def value(self, node: Any, hint: Any, place: str) -> Any:
        """Anything as the type that it must have."""
        if place == "provider":
            return self.provider(node)
        kinds = [part for part in get_args(hint) or (hint,) if isinstance(part, type) and issubclass(part, Struct)]
        if kinds and get_origin(hint) is not dict:
            return self.struct(node, kinds[0], place)
        if get_origin(hint) is dict and kinds:
            return {
                name: self.struct(value, kinds[0], f"{place}.{name}") for name, _, value in self.entries(node, place)
            }
        if get_origin(hint) is dict and isinstance(node, self.yaml.MappingNode):
            inner = get_args(hint)[1]
            return {name: self.value(value, inner, f"{place}.{name}") for name, _, value in self.entries(node, place)}
        try:
            return msgspec.convert(self.loader.construct_object(node, deep=True), hint)
        except msgspec.ValidationError as error:
            what = (
                str(error).partition(" - at ")[0].replace("`", "").replace("array", "list").replace("object", "table")
            )
            self.complain(node, f"{place}: {self.shown(node)}: {what[0].lower()}{what[1:]}.")
        except self.yaml.constructor.ConstructorError as error:
            self.complain(node, f"{place}: {error.problem}.")
        return None

    def provider(self, node: Any) -> Any:
        """The provider by its ``type``; those that we have no type for are Ray's to check."""
        named = {name: value for name, _, value in self.entries(node, "provider")}
        if "type" not in named:
            if isinstance(node, self.yaml.MappingNode):
                self.complain(node, f"provider lacks 'type'. Valid: {', '.join(PROVIDERS)}.")
            return None
        kind = named["type"].value
        if kind not in PROVIDERS:
            near, shown = _near(str(kind), PROVIDERS), self.shown(named["type"])
            self.complain(named["type"], f"there is no provider {shown}.{near} Valid: {', '.join(PROVIDERS)}.")
            return None
        if kind in KINDS:
            return self.struct(node, KINDS[kind], "provider")
        return {name: self.value(value, Any, f"provider.{name}") for name, value in named.items()}

    def shown(self, node: Any) -> str:
        """A value for a message."""
        try:
            shown = repr(self.loader.construct_object(node, deep=True))
        except self.yaml.constructor.ConstructorError as error:
            shown = f"({error.problem})"
        return shown if len(shown) < 60 else f"{shown[:57]}..."


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _unknown(name: str, place: str, hints: Mapping[str, Any]) -> str:
    if not place and name in ("head_node", "worker_nodes"):
        return f"{name!r} is no longer taken by Ray: describe the nodes in 'available_node_types'."
    return f"{place or 'the file'} has no field {name!r}.{_near(name, hints)} Valid: {', '.join(sorted(hints))}."


def _near(name: str, valid: Iterable[str]) -> str:
    near = get_close_matches(name, list(valid), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _contradictions(cluster: Cluster, given: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """What does not go together: ``(where, what)``."""
    kinds, provider = cluster.available_node_types, cluster.provider
    if isinstance(provider, Local):
        yield from _of_local(cluster, provider)
    elif "min_workers" in given:
        yield "min_workers", "min_workers belongs to a kind of node, in available_node_types."
    if kinds and not cluster.head_node_type:
        yield "available_node_types", "head_node_type must say which of available_node_types the head is."
    if cluster.head_node_type and cluster.head_node_type not in kinds and not isinstance(provider, Local):
        near = _near(cluster.head_node_type, kinds)
        yield "head_node_type", f"available_node_types has no {cluster.head_node_type!r}.{near}"
    most = 2 if cluster.max_workers is None else cluster.max_workers
    for name, kind in kinds.items():
        if isinstance(provider, AWS | GCP | Azure) and f"available_node_types.{name}.node_config" not in given:
            yield f"available_node_types.{name}", f"available_node_types.{name} lacks 'node_config': which machines?"
        if kind.max_workers is not None and kind.min_workers > kind.max_workers:
            where = f"available_node_types.{name}"
            yield (
                f"{where}.min_workers",
                f"{where}: min_workers {kind.min_workers} is above max_workers {kind.max_workers}.",
            )
    least = sum(kind.min_workers for kind in kinds.values())
    if least > most:
        said = f"max_workers {most}" + ("" if "max_workers" in given else ", Ray's default,")
        yield "max_workers", f"{said} is below the sum of min_workers of all kinds of nodes, {least}."
    yield from _of_auth(cluster)
    for remote, place in cluster.file_mounts.items():
        if not os.path.exists(os.path.expanduser(place)):
            yield f"file_mounts.{remote}", f"file_mounts: there is nothing at {place!r} on this machine."


def _of_local(cluster: Cluster, provider: Local) -> Iterator[tuple[str, str]]:
    if cluster.available_node_types or cluster.head_node_type:
        yield "available_node_types", "the provider 'local' has one kind of node: leave available_node_types out."
    if provider.coordinator_address:
        if cluster.max_workers is None:
            yield "provider", "with coordinator_address, max_workers must be given."
    elif not provider.head_ip or provider.worker_ips is None:
        yield "provider", "the provider 'local' needs head_ip and worker_ips, or coordinator_address."
    elif cluster.min_workers is not None and cluster.min_workers > len(provider.worker_ips):
        yield (
            "min_workers",
            f"min_workers {cluster.min_workers} is above the number of worker_ips, {len(provider.worker_ips)}.",
        )
    if (
        cluster.min_workers is not None
        and cluster.max_workers is not None
        and cluster.min_workers > cluster.max_workers
    ):
        yield "min_workers", f"min_workers {cluster.min_workers} is above max_workers {cluster.max_workers}."


def _of_auth(cluster: Cluster) -> Iterator[tuple[str, str]]:
    auth = cluster.auth
    if auth.ssh_proxy_use_node_id and not auth.ssh_proxy_command:
        yield "auth.ssh_proxy_use_node_id", "auth: ssh_proxy_use_node_id needs ssh_proxy_command."
    for name in ("ssh_private_key", "ssh_public_key"):
        path = getattr(auth, name)
        if path and not os.path.isfile(os.path.expanduser(path)):
            yield f"auth.{name}", f"auth.{name}: there is no file {path!r} on this machine."
