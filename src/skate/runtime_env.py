"""`RuntimeEnv`: a runtime environment as an object rather than a dict."""

from __future__ import annotations

from typing import Any

from skate.core.environment import check_variables

__all__ = ["RuntimeEnv"]


class RuntimeEnv(dict[str, Any]):
    """What `init` takes as ``runtime_env``: a dict whose fields are keyword arguments.

    ``env_vars`` is checked here, the rest where it is used.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__({name: value for name, value in fields.items() if value is not None})
        if "env_vars" in self:
            check_variables(self["env_vars"])

    def env_vars(self) -> dict[str, str]:
        """The environment variables."""
        return dict(self.get("env_vars", {}))

    def working_dir(self) -> str:
        """The working directory, "" when there is none."""
        return str(self.get("working_dir", ""))

    def py_modules(self) -> list[Any]:
        """The modules and packages that workers can import."""
        return list(self.get("py_modules", []))

    def serialize(self) -> str:
        """The fields as JSON."""
        import json

        return json.dumps(self, sort_keys=True)

    @classmethod
    def deserialize(cls, text: str) -> RuntimeEnv:
        """What `serialize` gave, as an object again."""
        import json

        return cls(**json.loads(text))

    def to_dict(self) -> dict[str, Any]:
        """The fields as a plain dict."""
        return dict(self)
