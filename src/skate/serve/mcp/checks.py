"""Is a tool's answer what the tool has promised?"""

from __future__ import annotations

import logging
from typing import Any

from skate.serve.mcp import messages
from skate.serve.mcp.messages import INTERNAL_ERROR, Json, RpcError

logger = logging.getLogger("skate.serve.mcp")


class OutputChecks:
    """Holds answers of tools against the output schemas that their server has listed.

    A schema that cannot be used is told once and then not checked. Those with regular expressions are not checked
    either: a hostile one could keep this process busy for ever. References to other documents are not followed.
    """

    def __init__(self) -> None:
        self._validators: dict[Json, Any] = {}

    def check(self, tool: str, schema: Json | None, result: Json) -> None:
        """RpcError (INTERNAL_ERROR) for an answer that is none, or is not as the schema says."""
        found = messages.fields(result)
        if found.get("resultType", b'"complete"') != b'"complete"':
            return  # questions, not yet an answer
        if found.get("content", b"[")[:1] != b"[" or not found.keys() & {"content", "structuredContent", "toolResult"}:
            raise RpcError(INTERNAL_ERROR, f"the answer of {tool} is no tool's result: it has no list of contents")
        if schema is None or found.get("isError") == b"true":
            return
        if (validator := self._validator(schema)) is None:
            return
        if "structuredContent" not in found:
            raise RpcError(INTERNAL_ERROR, f"{tool} promises structured content and gives none")
        complaint = _complaint(validator, messages.decode(found["structuredContent"]))
        if complaint is not None:
            raise RpcError(INTERNAL_ERROR, f"{tool} does not keep to its output schema: {complaint}")

    def _validator(self, schema: Json) -> Any:
        if schema not in self._validators:
            if len(self._validators) > 10_000:
                self._validators.clear()
            self._validators[schema] = _made(schema)
        return self._validators[schema]


def _made(schema: Json) -> Any:
    """A validator, or None for a schema that is not checked."""
    if b'"pattern' in schema:
        return None
    try:
        import jsonschema
        import referencing
    except ImportError:
        logger.warning("output schemas are not checked: pip install 'skate-ray[mcp]'")
        return None
    plain = messages.decode(schema)
    kind = jsonschema.validators.validator_for(plain, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(plain)
    except (jsonschema.SchemaError, RecursionError) as error:
        logger.warning("an output schema is not valid: %s", error)
        return None
    return kind(plain, registry=referencing.Registry())


def _complaint(validator: Any, value: Any) -> str | None:
    import referencing.exceptions

    try:
        error = next(iter(validator.iter_errors(value)), None)
    except (referencing.exceptions.Unresolvable, RecursionError) as problem:
        logger.warning("an output schema cannot be followed: %s", problem)
        return None
    return None if error is None else f"{error.json_path}: {error.message:.200}"
