"""From a configured application to what is deployed: importing it, calling its builder, options that go over its own.

This runs in an actor that is there for the one build, so that code is read as it is now, and what importing it does
harms nobody.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import msgspec

import skate
from skate.serve.build import build_app
from skate.serve.config_file import ServeApplicationSchema, split_import_path
from skate.serve.deployments import Application, Deployment
from skate.serve.specs import AppSpec


class BuildError(Exception):
    """An application that cannot be built; the text is for who configured it."""


class Builder:
    """The actor that builds one application."""

    def build(self, config: dict[str, Any], asked_by: int) -> AppSpec:
        """What is to be deployed for an application, given as `ServeApplicationSchema` has it.

        `asked_by` is the process that asks; in another one modules are read anew. Raises BuildError.
        """
        schema = ServeApplicationSchema.model_validate(config)
        apart = os.getpid() != asked_by
        if apart:
            forget_local_modules()
        folder = split_environment(schema.runtime_env)[1]
        if folder is not None:
            if not os.path.isdir(folder):
                raise BuildError(f"runtime_env.working_dir: there is no directory {folder!r}.")
            enter(folder, apart)
        app = application_of(import_target(schema.import_path), schema.args, schema.import_path)
        overrides = Overrides(schema, apart)
        try:
            spec = build_app(app, schema.name, schema.route_prefix, adjust=overrides)
        except (TypeError, ValueError) as error:
            raise BuildError(f"{schema.import_path}: {error}") from error
        overrides.check(spec)
        return replace(spec, declared=config)


# ------------------------------------------------------------- importing


def import_target(path: str) -> Any:
    """What an import path names. Raises BuildError, with the trace of what the module raised."""
    module_name, name = split_import_path(path)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001  importing runs code that may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name and module_name.startswith(error.name):
            raise BuildError(
                f"There is no module {error.name!r} (import_path {path!r}); it is looked for in {os.getcwd()} and "
                "where Python looks."
            ) from None
        raise BuildError(f"Importing {module_name!r} failed:\n{_trace(error)}") from None
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BuildError(f"{module_name!r} has no {part!r} (import_path {path!r}){hint}")
        found = getattr(found, part)
    return found


def _trace(error: BaseException) -> str:
    """The trace without what is ours and the import system's."""
    frames = error.__traceback__
    while frames is not None and (
        frames.tb_frame.f_code.co_filename == __file__ or "importlib" in frames.tb_frame.f_code.co_filename
    ):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def local_modules() -> dict[str, ModuleType]:
    """The loaded modules that belong to the program rather than to Python, to packages or to Skate."""
    elsewhere = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    return {
        name: module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in ("skate", "ray", "__main__", "__mp_main__")
        and isinstance(file := getattr(module, "__file__", None), str)
        and not file.startswith(elsewhere)
        and "site-packages" not in file
    }


def forget_local_modules() -> None:
    """Have the program's modules read anew when they are next imported."""
    for name in local_modules():
        del sys.modules[name]
    importlib.invalidate_caches()


def source_digest() -> str:
    """Names the content of the program's modules that are loaded."""
    digest = hashlib.blake2b(digest_size=12)
    for name, module in sorted(local_modules().items()):
        try:
            content = Path(str(module.__file__)).read_bytes()
        except OSError:  # gone since it was loaded
            content = b""
        digest.update(f"{name}:{len(content)}:".encode() + content)
    return digest.hexdigest()


# ------------------------------------------------------------- builders


def application_of(target: Any, args: Mapping[str, Any], path: str) -> Application:
    """The application that `target` is or, called with `args`, gives. Raises BuildError.

    The function's one argument is a dict, or what its annotation names: a class of pydantic or msgspec, a dataclass or
    a TypedDict, which `args` are converted to.
    """
    if isinstance(target, Application):
        if args:
            raise BuildError(f"args are for functions that build applications, and {path!r} is an application.")
        return target
    if isinstance(target, Deployment):
        raise BuildError(f"{path!r} is a deployment: write {path}.bind() to a variable, and name that.")
    if not inspect.isfunction(target):
        raise BuildError(f"{path!r} is neither an application nor a function that builds one, but {target!r}.")
    parameters = list(inspect.signature(target).parameters.values())
    if len(parameters) != 1:
        raise BuildError(f"{path!r} must take one argument, a dict of args, to build an application.")
    try:
        made = target(_typed_args(target, parameters[0].name, args))
    except BuildError:
        raise
    except Exception as error:  # noqa: BLE001  the user's function may raise anything
        raise BuildError(f"{path!r} failed:\n{_trace(error)}") from None
    if not isinstance(made, Application):
        raise BuildError(f"{path!r} must return what Deployment.bind() gives, and returned {made!r}.")
    return made


def _typed_args(function: Any, name: str, args: Mapping[str, Any]) -> Any:
    try:
        kind = get_type_hints(function).get(name, dict)
    except (NameError, TypeError):  # annotations that cannot be evaluated say nothing
        return dict(args)
    validate = getattr(kind, "model_validate", None)
    try:
        if validate is not None:
            return validate(dict(args))
        known = isinstance(kind, type) and (
            is_dataclass(kind) or issubclass(kind, msgspec.Struct) or hasattr(kind, "__total__")
        )
        return msgspec.convert(dict(args), kind, strict=False) if known else dict(args)
    except ValueError as error:  # of pydantic, of msgspec
        raise BuildError(f"args do not fit {kind.__name__}: {error}") from None


# ------------------------------------------------------------- options


class Overrides:
    """Gives deployments the options that the configuration has for them, and the application's version."""

    def __init__(self, schema: ServeApplicationSchema, apart: bool) -> None:
        self._schema = schema
        self._apart = apart
        self._options = {each.name: each.options() for each in schema.deployments}
        code = (schema.import_path, repr(sorted(schema.runtime_env.items())), source_digest())
        args = msgspec.json.encode(schema.args, enc_hook=repr, order="deterministic")
        self._version = hashlib.blake2b(repr(code).encode() + args, digest_size=12).hexdigest()

    def __call__(self, name: str, deployment: Deployment) -> Deployment:
        """The deployment that becomes `name`, with its options."""
        options = dict(self._options.get(name, {}))
        options.pop("name", None)
        actor = {**deployment.ray_actor_options, **options.get("ray_actor_options", {})}
        merged = merged_environment(self._schema.runtime_env, actor.pop("runtime_env", None) or {})
        environment, folder = split_environment(merged)
        options["ray_actor_options"] = {**actor, "runtime_env": environment} if environment else actor
        if folder is not None and self._apart:
            options["func_or_class"] = InFolder(folder, deployment.func_or_class)
        if self._schema.logging_config is not None and deployment._config.logging_config is None:
            options.setdefault("logging_config", self._schema.logging_config.model_dump(exclude_unset=True))
        return deployment.options(**options, version=self._version)

    def check(self, spec: AppSpec) -> None:
        """BuildError for options of deployments that there are not."""
        for place, each in enumerate(self._schema.deployments):
            if each.name not in spec.targets:
                near = difflib.get_close_matches(each.name, spec.targets, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(spec.targets)}"
                raise BuildError(f"deployments[{place}].name: there is no deployment {each.name!r}; {hint}")


class InFolder:
    """A deployment's class or function that is unpickled in a directory, which stays the process's own."""

    def __init__(self, folder: str, target: Any) -> None:
        self._folder = folder
        self._target = target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the deployment's own."""
        return self._target(*args, **kwargs)

    def __reduce__(self) -> Any:
        return _unpickled_in, (self._folder, skate.cloudpickle.dumps(self._target))


def _unpickled_in(folder: str, pickled: bytes) -> Any:
    enter(folder, True)
    return skate.cloudpickle.loads(pickled)


def enter(folder: str, apart: bool) -> None:
    """Have modules found in `folder` first, and be there, unless the process is not ours alone."""
    if folder not in sys.path[:1]:
        sys.path.insert(0, folder)
    if apart:
        os.chdir(folder)


def split_environment(environment: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """An environment without its ``working_dir``, and that, where it is a directory of this machine.

    Actors have no directories of their own; replicas go there themselves.
    """
    folder = environment.get("working_dir")
    if not isinstance(folder, str) or "://" in folder.removeprefix("local://"):
        return dict(environment), None
    rest = {name: value for name, value in environment.items() if name != "working_dir"}
    return rest, os.path.abspath(folder.removeprefix("local://"))


def merged_environment(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """The environment `inner` within `outer`: its fields count, and its variables are added."""
    merged = {**outer, **inner}
    variables = {**(outer.get("env_vars") or {}), **(inner.get("env_vars") or {})}
    return {**merged, "env_vars": variables} if variables else merged
