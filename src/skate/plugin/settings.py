"""The configuration of this process's service, and the plugins' tables in it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from skate.configuration import Config, ConfigError, is_secret, load_with_origins, masked

C = TypeVar("C", bound=BaseModel)
_config: Config | None = None


def use(config: Config | None) -> None:
    """Have `get_plugin_config` look here; None: in the files and the environment."""
    global _config
    _config = config


def current() -> Config:
    """The configuration of the service, or of this folder. Raises ConfigError."""
    return load_with_origins().config if _config is None else _config


def get_plugin_config(plugin_name: str, config_class: type[C]) -> C:
    """A plugin's table ``[plugins.NAME]``, checked by a Pydantic model.

    Raises ConfigError for what does not fit. Unknown fields are refused unless the model takes them.
    """
    return checked(plugin_name, config_class, current().plugins.get(plugin_name, {}))


def checked(plugin: str, config_class: type[C], table: object) -> C:
    """A plugin's table as its model. Raises ConfigError, which names the field and the nearest valid one."""
    place = f"[plugins.{plugin}]"
    if not isinstance(table, dict):
        raise ConfigError(f"{place} must be a table")
    if "ingress_config" in table and "ingress_config" not in config_class.model_fields:
        table = {name: value for name, value in table.items() if name != "ingress_config"}  # the service's own
    if not config_class.model_config.get("extra"):
        known = {name for field, info in config_class.model_fields.items() for name in (field, info.alias) if name}
        for name in table:
            if name not in known:
                near = get_close_matches(name, known, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"{place} has no setting {name!r}.{hint} Valid: {', '.join(sorted(known))}.")
    try:
        return config_class.model_validate(table)
    except ValidationError as error:
        problems = []
        for each in error.errors():
            name = ".".join(map(str, each["loc"]))
            secret = is_secret(name)
            # the plugin's own words may have the value in them
            said = "does not fit" if secret and each["type"] in ("value_error", "assertion_error") else each["msg"]
            shown = "" if secret or each["type"] == "missing" else f" = {masked(name, each['input'])!r}"
            problems.append(f"{name}{shown}: {said.lower()}")
        raise ConfigError(f"{place} {'; '.join(problems)}") from None
