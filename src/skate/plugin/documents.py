"""What upstream services offer, of their OpenAPI documents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from skate.configuration import without_login
from skate.plugin.auth import Rules
from skate.plugin.catalog import UpstreamApi
from skate.plugin.upstream import EVENTS, ProxyConfig, UpstreamRules, key_for, origin

METHODS = ("get", "post", "put", "patch", "delete", "head", "options")
MOST_REFERENCES = 20
"""References from one to the next that are followed; more go in a circle."""


def discover(config: ProxyConfig) -> tuple[list[UpstreamApi], dict[str, Any], dict[str, str]]:
    """The published routes of all upstream services, their schemas, and what went wrong by URL."""
    import httpx2 as httpx

    apis: list[UpstreamApi] = []
    schemas: dict[str, Any] = {}
    failed: dict[str, str] = {}
    keys = Rules(config.auth.rules)
    with httpx.Client(timeout=httpx.Timeout(min(config.timeout, 30), connect=config.connect_timeout)) as client:
        for url, rules in config.upstreams().items():
            try:
                answer = client.get(url + rules.docs_path, headers=key_for(keys, rules.docs_path))
                answer.raise_for_status()
                document = answer.json()
                if not isinstance(document, dict) or not isinstance(document.get("paths"), dict):
                    raise ValueError("it is no OpenAPI document")
                found, components = read_document(url, document, rules, frozenset(config.force_stream_apis))
            except (httpx.HTTPError, ValueError) as error:
                shown = origin(url)
                failed[shown] = without_login(f"{shown}{rules.docs_path}: {error}")
                continue
            apis += found
            schemas |= components
    return apis, schemas, failed


def read_document(
    url: str, document: Mapping[str, Any], rules: UpstreamRules, streams: frozenset[str]
) -> tuple[list[UpstreamApi], dict[str, Any]]:
    """The published operations of an OpenAPI document, and its schemas under names that are this upstream's own."""
    prefix = re.sub(r"\W+", "_", url.partition("://")[2].rpartition("@")[2]) + "__"  # without a login
    apis = []
    for path, item in document["paths"].items():
        if not isinstance(item, dict) or not path.startswith("/") or not rules.allows(path):
            continue
        for method in METHODS:
            if isinstance(item.get(method), dict):
                operation = _operation_of(item, method, document)
                apis.append(
                    _operation(
                        url, path, method.upper(), _renamed(operation, prefix), document, prefix, path in streams
                    )
                )
    components = document.get("components", {}).get("schemas", {})
    return apis, {prefix + name: _renamed(schema, prefix) for name, schema in components.items()}


def _operation_of(item: Mapping[str, Any], method: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """An operation with what it refers to, but for schemas, in its place."""
    made = dict(item[method])
    parameters = [*item.get("parameters", ()), *made.get("parameters", ())]
    made["parameters"] = [_referred(each, document) for each in parameters]
    if "requestBody" in made:
        made["requestBody"] = _referred(made["requestBody"], document)
    if isinstance(made.get("responses"), dict):
        made["responses"] = {status: _referred(each, document) for status, each in made["responses"].items()}
    return made


def _referred(value: Any, document: Mapping[str, Any]) -> Any:
    """What ``{"$ref": "#/components/parameters/Limit"}`` refers to. An empty table for what is not there."""
    for _ in range(MOST_REFERENCES):
        reference = value.get("$ref") if isinstance(value, dict) else None
        if not isinstance(reference, str):
            return value
        value = document
        for name in reference.removeprefix("#/").split("/"):
            value = value.get(name.replace("~1", "/").replace("~0", "~"), {}) if isinstance(value, Mapping) else {}
    return {}


def _operation(
    url: str, path: str, method: str, operation: dict[str, Any], document: Mapping[str, Any], prefix: str, stream: bool
) -> UpstreamApi:
    schemas = document.get("components", {}).get("schemas", {})
    content = operation.get("requestBody", {}).get("content", {})
    kind = next(
        (each for each in ("application/json", "multipart/form-data") if each in content), next(iter(content), "")
    )
    schema = content.get(kind, {}).get("schema", {})
    if "$ref" in schema:
        schema = schemas.get(schema["$ref"].rpartition("/")[2].removeprefix(prefix), {})
    fields = schema.get("properties", {})
    files = {name for name, each in fields.items() if "binary" in str(each) or "contentMediaType" in str(each)}
    answers = operation.get("responses", {}).get("200", {}).get("content", {})
    return UpstreamApi(
        base_url=url,
        path=path,
        method=method,
        parameters={each["name"]: each.get("in", "query") for each in operation["parameters"] if "name" in each},
        body=kind,
        body_fields=frozenset(fields),
        file_fields=frozenset(files),
        stream=stream or EVENTS in answers,
        operation=operation,
    )


def _renamed(value: Any, prefix: str) -> Any:
    """A part of a document with references to schemas under their new names."""
    if isinstance(value, dict):
        return {
            name: each.replace("#/components/schemas/", f"#/components/schemas/{prefix}")
            if name == "$ref" and isinstance(each, str)
            else _renamed(each, prefix)
            for name, each in value.items()
        }
    return [_renamed(each, prefix) for each in value] if isinstance(value, list) else value
