"""Cluster files: what Ray's launcher takes is read, and everything else is told with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skate.cluster_file import AWS, Azure, ClusterFileError, Local, check, read

pytest.importorskip("yaml", reason="comes with the extra skate-ray[ray]")

HEAD = """\
cluster_name: first
provider:
  type: {provider}
"""
NODES = """\
head_node_type: head
available_node_types:
  head:
    node_config: {kind: small}
    resources: {CPU: 2}
  worker:
    node_config: {kind: large}
    min_workers: 1
    max_workers: 2
    labels: {zone: here}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ClusterFileError) as caught:
        check(text)
    return str(caught.value).splitlines()


def test_a_file_is_read_with_its_types(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(HEAD.format(provider="aws") + "  region: eu-west-1\nmax_workers: 3\n" + NODES)
    cluster = read(path)
    assert isinstance(cluster.provider, AWS) and cluster.provider.region == "eu-west-1"
    assert cluster.max_workers == 3 and cluster.available_node_types["worker"].max_workers == 2
    assert cluster.available_node_types["head"].resources == {"CPU": 2}


@pytest.mark.parametrize(
    ("provider", "more"),
    [
        ("gcp", "  region: us-west1\n  project_id: null\n"),
        ("azure", "  location: westus2\n  resource_group: mine\n  tags: {team: us}\n"),
        ("aliyun", "  whatever: 1\n"),
        ("local", "  head_ip: 10.0.0.1\n  worker_ips: [10.0.0.2]\nmin_workers: 1\nmax_workers: 1\n"),
        ("local", "  coordinator_address: 10.0.0.1:1234\nmax_workers: 1\n"),
    ],
)
def test_every_provider_has_its_fields(provider: str, more: str) -> None:
    cluster = check(HEAD.format(provider=provider) + more)
    kind = getattr(cluster.provider, "type", None) or cluster.provider["type"]  # type: ignore[index]
    assert kind == provider
    assert isinstance(cluster.provider, Azure | Local | dict) or provider == "gcp"


def test_anchors_and_merges_are_followed() -> None:
    text = HEAD.format(provider="gcp") + NODES.replace(
        "    node_config: {kind: small}", "    node_config: &config {kind: small}"
    ).replace("    node_config: {kind: large}", "    node_config:\n      <<: *config\n      disk: 3")
    assert check(text).available_node_types["worker"].node_config == {"kind": "small", "disk": 3}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("cluster_name: first\n", ""), "line 1: the file lacks 'cluster_name'"),
        (("cluster_name: first", "cluster_name: ''"), "line 1: cluster_name: '': expected str of length >= 1"),
        (("cluster_name: first", "cluster_nam: first"), "line 1: the file has no field 'cluster_nam'. Did you mean"),
        (("type: gcp", "type: gpc"), "line 3: there is no provider 'gpc'. Did you mean 'gcp'? Valid: aws, gcp"),
        (("type: gcp", "tpye: gcp"), "line 3: provider lacks 'type'"),
        (("  type: gcp", "  type: gcp\n  zone: x"), "line 4: provider has no field 'zone'."),
        (("provider:\n  type: gcp", "provider: gcp"), "line 2: provider must be a table"),
        (("head_node_type: head", "head_node_type: haed"), "line 4: available_node_types has no 'haed'. Did you mean"),
        (("head_node_type: head\n", ""), "line 4: head_node_type must say which"),
        (("CPU: 2", "CPU: two"), "line 8: available_node_types.head.resources.CPU: 'two': expected int, got str"),
        (("CPU: 2", "CPU: -2"), "line 8: available_node_types.head.resources.CPU: -2: expected int >= 0"),
        (("min_workers: 1", "min_worker: 1"), "line 11: available_node_types.worker has no field 'min_worker'."),
        (("min_workers: 1", "min_workers: 3"), "line 11: available_node_types.worker: min_workers 3 is above max"),
        (("max_workers: 2", "max_workers: many"), "line 12: available_node_types.worker.max_workers: 'many': expected"),
        (("    node_config: {kind: small}\n", ""), "line 6: available_node_types.head lacks 'node_config'"),
        (("  worker:", "  head:"), "line 9: available_node_types.head was said already, in line 6"),
        (("head_node_type", "min_workers: 1\nhead_node_type"), "line 4: min_workers belongs to a kind of node"),
        (("head_node_type", "max_workers: 0\nhead_node_type"), "line 4: max_workers 0 is below the sum of min_workers"),
        (("head_node_type", "setup_commands: ls\nhead_node_type"), "line 4: setup_commands: 'ls': expected list"),
        (("head_node_type", "worker_nodes: {}\nhead_node_type"), "line 4: 'worker_nodes' is no longer taken"),
        (
            ("head_node_type", "auth: {ssh_private_key: /no}\nhead_node_type"),
            "line 4: auth.ssh_private_key: there is no",
        ),
        (("head_node_type", "auth: {ssh_proxy_use_node_id: true}\nhead_node_type"), "line 4: auth: ssh_proxy_use_node"),
        (("head_node_type", "file_mounts: {/a: /no/such}\nhead_node_type"), "line 4: file_mounts: there is nothing"),
        (("head_node_type", "docker: {imag: x}\nhead_node_type"), "line 4: docker has no field 'imag'. Did you mean"),
        (("head_node_type", "metadata: &m {a: *m}\nhead_node_type"), "line 4: metadata.a: found unconstructable"),
        (("head_node_type", "metadata: !!python/object:os.system x\nhead_node_type"), "line 4: metadata: could not"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(change: tuple[str, str], said: str) -> None:
    text = HEAD.format(provider="gcp") + NODES
    check(text)
    assert change[0] in text
    assert any(f"cluster.yaml, {said}" in line for line in problems(text.replace(*change, 1)))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "needs head_ip and worker_ips"),
        ("  head_ip: 10.0.0.1\n  worker_ips: [10.0.0.2]\nmin_workers: 2\n", "above the number of worker_ips, 1"),
        (
            "  head_ip: 10.0.0.1\n  worker_ips: [a]\nmin_workers: 1\nmax_workers: 0\n",
            "min_workers 1 is above max_workers 0",
        ),
        ("  coordinator_address: a:1\n", "max_workers must be given"),
        ("  head_ip: a\n  worker_ips: []\n" + NODES, "leave available_node_types out"),
        ("  head_ip: 3\n  worker_ips: []\n", "line 4: provider.head_ip: 3: expected str, got int"),
    ],
)
def test_the_local_provider_has_rules_of_its_own(more: str, said: str) -> None:
    assert said in problems(HEAD.format(provider="local") + more)[0]


def test_all_problems_are_told_at_once_in_their_order() -> None:
    found = problems("max_worker: 3\ncluster_nam: x\nprovider: {type: asw}\n")
    assert [re.search(r"line (\d+)", line)[1] for line in found] == ["1", "2", "3"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a: [", "no YAML"),
        ("a: b\n c: d", "line 2: no YAML"),
        ("- 1", "line 1: the file must be a table of names and values, not [1]"),
        ("a: \x00", "no YAML"),
    ],
)
def test_what_is_no_cluster_file_at_all_is_told(text: str, said: str) -> None:
    assert said in problems(text)[0]


def test_without_yaml_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"skate-ray\[ray\]"):
        check("a: 1")
