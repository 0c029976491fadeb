"""The work of the tour: plain Python and NumPy that knows nothing of Skate.

`tour.py` runs these functions twice, as tasks and an actor and then in one plain loop, and
compares both results and both times.
"""

from __future__ import annotations

import ast
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Source = tuple[str, str]  # a module's dotted name, and the path of its file
Matrix = NDArray[np.float32]
Match = tuple[int, float, list[int]]  # a row, the cosine, the columns that say why

SKIPPED = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"}
# One file is about 2 ms of parsing: small files travel together, so that a task is worth sending.
BATCH_BYTES = 24_000
WORD = re.compile(r"[a-z]{3,}")


@dataclass(frozen=True, slots=True)
class Module:
    """What one source file says about itself; `error` is empty if it could be parsed."""

    name: str
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: frozenset[str] = frozenset()
    identifiers: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    error: str = ""


def batches(root: str, limit: int | None) -> Iterator[list[Source]]:
    """Walk the library in a fixed order; yield groups of about BATCH_BYTES of source."""
    batch: list[Source] = []
    size = count = 0
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - SKIPPED)
        for file in sorted(files):
            if not file.endswith(".py") or count == limit:
                continue
            path = os.path.join(folder, file)
            batch.append((module_name(os.path.relpath(path, root)), path))
            count += 1
            size += os.path.getsize(path)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def module_name(relative: str) -> str:
    parts = relative.removesuffix(".py").split(os.sep)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parse_batch(batch: list[Source]) -> list[Module]:
    return [parse_file(name, path) for name, path in batch]


def parse_file(name: str, path: str) -> Module:
    """Read one file. What cannot be read or parsed is a row with an error, not a crash."""
    try:
        with open(path, "rb") as file:
            source = file.read()
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        return Module(name, error=f"{type(error).__name__}: {error}")
    kinds = Counter(type(node) for node in ast.walk(tree))
    return Module(
        name,
        lines=source.count(b"\n"),
        functions=kinds[ast.FunctionDef] + kinds[ast.AsyncFunctionDef],
        classes=kinds[ast.ClassDef],
        imports=frozenset(imported(tree)),
        identifiers=Counter(identifiers(tree)),
        words=Counter(docstring_words(tree)),
    )


def identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name):
                yield name


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the packages a module imports; relative imports stay within its own package."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]


def docstring_words(tree: ast.AST) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented):
            yield from WORD.findall((ast.get_docstring(node, clean=False) or "").lower())


class Index:
    """An inverted index: which modules use an identifier, and how often."""

    def __init__(self) -> None:
        self.uses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.modules = 0

    def add(self, modules: list[Module]) -> None:
        for module in modules:
            self.modules += 1
            for identifier, count in module.identifiers.items():
                self.uses[identifier][module.name] = count

    def query(self, identifier: str) -> tuple[int, list[str]]:
        """How many modules use it, and the three that use it most."""
        users = self.uses.get(identifier, Counter())
        by_use = sorted(users, key=lambda name: (-users[name], name))
        return len(users), by_use[:3]

    def size(self) -> int:
        return self.modules


def term_matrix(modules: list[Module]) -> tuple[list[str], Matrix]:
    """Return the terms, and the weights of modules x terms.

    A weight is tf-idf: (1 + log count) * log(modules / modules that have the term). A term is an
    identifier or a docstring word of two modules or more. Rows have length 1, so
    a product of two rows is the cosine of their angle (Manning et al., Introduction to Information
    Retrieval, 2008, sections 6.2 to 6.4).
    """
    rows = [module.identifiers + module.words for module in modules]
    spread = Counter(term for row in rows for term in row)
    terms = sorted(term for term, modules_with_it in spread.items() if modules_with_it > 1)
    columns = {term: at for at, term in enumerate(terms)}
    matrix = np.zeros((len(rows), len(columns)), dtype=np.float32)
    for weights, row in zip(matrix, rows, strict=True):
        known = [(columns[term], count) for term, count in row.items() if term in columns]
        if known:
            at, counts = zip(*known, strict=True)
            weights[list(at)] = 1 + np.log(counts)
    df = np.array([spread[term] for term in terms], dtype=np.float32)
    matrix *= np.log(len(rows) / df)
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
    return terms, matrix


def package_numbers(modules: list[Module]) -> NDArray[np.int64]:
    """A number for each module that is the same for all modules of one package."""
    numbers: dict[str, int] = {}
    packages = [module.name.partition(".")[0].lstrip("_") for module in modules]
    return np.array([numbers.setdefault(package, len(numbers)) for package in packages])


def nearest(matrix: Matrix, packages: NDArray[np.int64], first: int, last: int) -> list[Match]:
    """For rows first..last-1: the most similar module of another package, how much, and why."""
    cosines = matrix[first:last] @ matrix.T
    cosines[packages[first:last, None] == packages[None, :]] = -1
    found = []
    for row, other in zip(range(first, last), cosines.argmax(axis=1).tolist(), strict=True):
        shared = matrix[row] * matrix[other]  # what each term adds to the cosine
        most = np.argpartition(shared, -3)[-3:].tolist()
        most.sort(key=lambda column: -shared[column])
        found.append((other, float(cosines[row - first, other]), most))
    return found
