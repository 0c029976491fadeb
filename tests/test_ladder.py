"""Imports go down the floors, and no modules import each other in a circle.

Floors, lowest first: the core (words and contracts), the engines, the API with `util` and
`testing`, the libraries, the shell. A module may import its own floor and the floors below. An
import inside a function counts too: it is a dependency all the same. An import under
`if TYPE_CHECKING:` does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "skate"

CORE, ENGINES, API, LIBRARIES, SHELL = range(1, 6)
FLOORS = {
    "skate._version": CORE,
    "skate.exceptions": CORE,
    "skate.core": CORE,
    "skate.engines": ENGINES,
    "skate": API,  # the front door itself
    "skate.api": API,
    "skate.session": API,
    "skate.remote_function": API,
    "skate.actor": API,
    "skate.actor_handle": API,
    "skate.runtime_context": API,
    "skate.runtime_env": API,
    "skate.typed": API,
    "skate.types": API,
    "skate.cloudpickle": API,
    "skate.cluster_utils": API,
    "skate.cluster_file": API,
    "skate.launcher": API,
    "skate.configuration": API,
    "skate.job_submission": API,
    "skate.standing": API,
    "skate.util": API,
    "skate.compat": API,
    "skate.testing.serve_soak": LIBRARIES,  # it rehearses serve
    "skate.testing": API,
    "skate.dag": API,
    "skate.experimental": API,
    "skate.data": LIBRARIES,
    "skate.train": LIBRARIES,
    "skate.tune": LIBRARIES,
    "skate.rllib": LIBRARIES,
    "skate.serve": LIBRARIES,
    "skate.llm": LIBRARIES,
    "skate.mcp": LIBRARIES,
    "skate.__main__": SHELL,
    "skate.as_ray": SHELL,
    "skate.cli": SHELL,
    "skate.plugin": SHELL,
    "skate.dashboard": SHELL,
}
# Above the API nothing knows the engines: everything there uses the public API alone.
PRIVATE_TO_THE_API = ("skate.core", "skate.engines")


def module_name(path: Path) -> str:
    parts = ["skate", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def floor_of(module: str) -> int | None:
    """The floor of the longest entry that names the module or a package around it, or None."""
    name = module
    while name and name not in FLOORS:
        name = name.rpartition(".")[0]
    # "skate" is the front door, not a package that lends its floor to whatever is new inside it.
    return None if name in ("", "skate") and module != "skate" else FLOORS[name]


def is_for_types_only(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def import_statements(tree: ast.AST, *, inside_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif is_for_types_only(node):
            for branch in getattr(node, "orelse", []):
                yield from import_statements(ast.Module([branch], []), inside_functions=inside_functions)
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from import_statements(node, inside_functions=inside_functions)


def imported(module: str, *, inside_functions: bool) -> Iterator[tuple[str, int]]:
    """The modules of this package that `module` imports, each with its line."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in import_statements(tree, inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            # `from skate.core import ids` needs the module skate.core.ids, not its package
            base = node.module or ""
            whole = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else base for name in whole]
        for name in names:
            if name == "skate" or name.startswith("skate."):
                yield name, node.lineno


def place(module: str, line: int) -> str:
    return f"{MODULES[module].relative_to(SOURCE.parent)}:{line}"


def test_every_module_stands_on_a_floor() -> None:
    homeless = [module for module in MODULES if floor_of(module) is None]
    assert not homeless, f"give these modules a floor in {Path(__file__).name}: {homeless}"


def test_imports_only_go_down() -> None:
    upward = [
        f"{place(module, line)}: {module} imports {target}, a floor above it"
        for module in MODULES
        for target, line in imported(module, inside_functions=True)
        if (floor_of(target) or CORE) > (floor_of(module) or SHELL)
    ]
    assert not upward, "\n".join(upward)


def test_libraries_and_shell_use_the_public_api_alone() -> None:
    inner = [
        f"{place(module, line)}: {module} imports {target}; import skate instead"
        for module in MODULES
        if (floor_of(module) or CORE) > API
        for target, line in imported(module, inside_functions=True)
        if target.startswith(PRIVATE_TO_THE_API)
    ]
    assert not inner, "\n".join(inner)


def test_engines_do_not_import_each_other() -> None:
    def engine(module: str) -> str | None:
        """inline for skate.engines.inline..., None for what the engines share."""
        parts = module.split(".")
        return parts[2] if len(parts) > 2 and parts[2] in ("inline", "local", "ray") else None

    crossed = [
        f"{place(module, line)}: {module} imports {target}"
        for module in MODULES
        if module.startswith("skate.engines.")
        for target, line in imported(module, inside_functions=True)
        if target.startswith("skate.engines.")
        and engine(target) not in (None, engine(module))
        # the packages' own doors may choose an engine
        and engine(module) is not None
    ]
    assert not crossed, "\n".join(crossed)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of the graph, its first node repeated at the end; empty where there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            if found := visit(target, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def test_no_circle_of_imports() -> None:
    graph = {module: {name for name, _ in imported(module, inside_functions=False)} for module in MODULES}
    found = circle(graph)
    assert not found, " -> ".join(found)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({}, []),
        ({"a": {"b"}, "b": {"c"}}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"a"}}, ["a", "a"]),
    ],
)
def test_circle_is_found(graph: dict[str, set[str]], expected: list[str]) -> None:
    assert circle(graph) == expected


def test_imports_for_types_are_left_out_and_else_branches_are_not() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    import skate.a\nelse:\n    import skate.b\ndef f():\n    import skate.c\n")

    def names(*, inside: bool) -> list[str]:
        found = import_statements(tree, inside_functions=inside)
        return [alias.name for node in found for alias in node.names]

    assert names(inside=False) == ["skate.b"]
    assert names(inside=True) == ["skate.b", "skate.c"]
