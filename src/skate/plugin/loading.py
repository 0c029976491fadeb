"""Finding plugins: modules, packages searched recursively, those that ship with Skate, entry points."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import ModuleType

from skate.plugin import marks
from skate.plugin.errors import PluginLoadError, describe
from skate.plugin.model import Plugin, PluginDeployment, PluginMetadata

log = logging.getLogger("skate.plugin")
META = "__plugin_meta__"
ENTRY_POINTS = "skate.plugins"
BUILTIN = {"echo": "skate.plugin.builtin.echo", "proxy": "skate.plugin.builtin.proxy"}


@dataclass
class Registry:
    """The plugins that were loaded, those that could not be, and those that are not to be."""

    plugins: dict[str, Plugin] = field(default_factory=dict)
    failed: dict[str, BaseException | str] = field(default_factory=dict)
    disabled: list[str] = field(default_factory=list)
    _modules: set[str] = field(default_factory=set)

    def load(self, names: Iterable[str], disabled: Iterable[str] = ()) -> list[Plugin]:
        """Load the plugins of modules and packages; returns those that are new. What goes wrong is in `failed`."""
        before = set(self.plugins)
        for name in names:
            self._search(name.strip(), frozenset(disabled), asked_for=True)
        return [plugin for name, plugin in self.plugins.items() if name not in before]

    def load_builtin(self, names: Iterable[str], disabled: Iterable[str] = ()) -> list[Plugin]:
        """Load plugins that ship with Skate. Raises ValueError for a name that none has."""
        modules = []
        for name in names:
            if name not in BUILTIN:
                raise ValueError(f"There is no built-in plugin {name!r}; there are: {', '.join(BUILTIN)}")
            modules.append(BUILTIN[name])
        return self.load(modules, disabled)

    def load_entry_points(self, disabled: Iterable[str] = ()) -> list[Plugin]:
        """Load the plugins that installed packages announce."""
        return self.load((point.value.partition(":")[0] for point in entry_points(group=ENTRY_POINTS)), disabled)

    def _search(self, name: str, disabled: frozenset[str], *, asked_for: bool) -> None:
        if name in self._modules:
            return
        self._modules.add(name)
        short = name.rpartition(".")[2]
        if short in disabled or name in disabled:
            self.disabled.append(short)
            return
        try:
            module = importlib.import_module(name)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self.failed[name] = _missing(name, error)
            return
        meta = getattr(module, META, None)
        if meta is not None:
            self._take(module, meta, disabled)
        elif hasattr(module, "__path__"):
            for found in sorted(pkgutil.iter_modules(module.__path__, name + "."), key=lambda each: each.name):
                if not found.name.rpartition(".")[2].startswith("_"):
                    self._search(found.name, disabled, asked_for=False)
        elif asked_for:
            self.failed[name] = f"{module.__file__} has no {META} = PluginMetadata(...)"

    def _take(self, module: ModuleType, meta: object, disabled: frozenset[str]) -> None:
        name = module.__name__.rpartition(".")[2]
        if not isinstance(meta, PluginMetadata):
            self.failed[module.__name__] = f"{META} must be a PluginMetadata, not {type(meta).__name__}"
            return
        if meta.name in disabled:
            self.disabled.append(name)
            return
        if name in self.plugins:
            other = self.plugins[name].module
            self.failed[module.__name__] = f"the name {name!r} is taken by the plugin in {other}"
            return
        try:
            classes = _classes(module)
        except Exception as error:  # noqa: BLE001  a module of the plugin may fail of anything
            self.failed[module.__name__] = error
            return
        if not classes:
            self.failed[module.__name__] = "no class is marked with @on_register()"
            return
        deployments = [
            PluginDeployment(f"{name}.{cls.__name__}", cls, dict(getattr(cls, marks.OPTIONS_MARK)), apis)
            for cls in classes
            for apis in [marks.apis_of(cls, name)]
        ]
        self.plugins[name] = Plugin(name, module.__name__, meta, deployments)
        log.info("loaded plugin %s %s from %s", name, meta.version, module.__name__)

    def refuse(self, failures: dict[str, BaseException | str]) -> None:
        """Take plugins out that cannot be started, with their causes."""
        for name, cause in failures.items():
            self.plugins.pop(name, None)
            self.failed[name] = cause

    def report(self, strict: bool) -> None:
        """Tell of what does not work; PluginLoadError under `strict`."""
        if self.failed and strict:
            raise PluginLoadError(self.failed)
        for name, cause in self.failed.items():
            log.error("plugin %s is left out: %s", name, describe(cause))
        for name in self.disabled:
            log.info("plugin %s is disabled", name)


def _missing(name: str, error: BaseException) -> BaseException | str:
    """A module that is not there is told apart from one that cannot import something."""
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and (name == error.name or name.startswith(error.name + "."))
    ):
        return f"there is no module {error.name!r} (is its folder on PYTHONPATH?)"
    return error


def _classes(module: ModuleType) -> list[type]:
    """The marked classes of a plugin; a package whose own module has none is searched."""
    found = _marked(module.__name__)
    if not found and hasattr(module, "__path__"):
        for inner in pkgutil.walk_packages(module.__path__, module.__name__ + "."):
            importlib.import_module(inner.name)
        found = _marked(module.__name__)
    return found


def _marked(module: str) -> list[type]:
    latest = {
        (cls.__module__, cls.__qualname__): cls
        for cls in marks.REGISTERED
        if cls.__module__ == module or cls.__module__.startswith(module + ".")
    }
    return list(latest.values())


REGISTRY = Registry()
"""What `load_plugins` and `load_builtin_plugins` have loaded in this process, for the next `run`."""


def load_plugins(*names: str) -> set[str]:
    """Load plugins, each by the name of its module, or all of a package; returns their names.

    One that does not work is reported with its cause when the service starts.
    """
    return {plugin.name for plugin in REGISTRY.load(names)}


def load_builtin_plugins(*names: str) -> set[str]:
    """Load plugins that ship with Skate: ``echo``, ``proxy``. Returns their names."""
    return {plugin.name for plugin in REGISTRY.load_builtin(names)}
