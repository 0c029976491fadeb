"""The pages in docs/ keep their word: programs run; files, links and errors exist; no message is left out."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from skate import exceptions
from skate.engines.local import messages
from skate.plugin import errors as plugin_errors
from skate.serve import exceptions as serve_exceptions

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "skate"
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
AT_ONCE = 2
"""Programs that run side by side: each starts workers of its own."""
OF_RAY = "docs/compatibility.md"
"""Its names are Ray's, and have a test of their own."""
USERS_OWN = {"script.py", "__main__.py"}
"""Names that stand for the reader's files."""

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Program(NamedTuple):
    """A python block of a page."""

    line: int
    text: str


def programs(page: str) -> list[Program]:
    text = PAGES[page]
    return [Program(text.count("\n", 0, found.start()) + 2, found[1]) for found in PROGRAM.finditer(text)]


def prose(page: str) -> str:
    """The page without its fenced blocks."""
    return FENCED.sub("", PAGES[page])


def complaint(page: str, program: Program, folder: Path) -> str:
    """What went wrong when the program ran; empty if nothing did."""
    script = folder / f"line_{program.line}.py"
    script.write_text(program.text, encoding="utf-8")
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else f"{page}:{program.line} ended with {done.returncode}:\n{done.stderr}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [page for page in PAGES if programs(page)])
def test_programs_run(page: str, tmp_path: Path) -> None:
    if "import numpy" in PAGES[page]:
        pytest.importorskip("numpy")
    with ThreadPoolExecutor(AT_ONCE) as threads:
        complaints = list(threads.map(lambda program: complaint(page, program, tmp_path), programs(page)))
    assert not any(complaints), "\n".join(filter(None, complaints))


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    words = {word.strip(".,:;()") for code in CODE.findall(prose(page)) for word in code.split()}
    names = {word for word in words if re.fullmatch(r"[\w./-]+(\.py|/)", word) and not word.startswith("/")}
    places = (ROOT, SOURCE)
    missing = sorted(name for name in names - USERS_OWN if not any((place / name).exists() for place in places))
    assert not missing, f"{page} names what is neither in the repository nor in src/skate: {missing}"


def anchors(page: str) -> set[str]:
    """Where links into a page can lead, as GitHub makes them of its headings."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    lost = []
    for target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        other = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""
        if not path.exists() or (anchor and anchor not in anchors(other)):
            lost.append(target)
    assert not lost


def test_architecture_has_a_row_for_every_module() -> None:
    page = PAGES["docs/architecture.md"]
    named = set(CODE.findall(page))
    after_the_floors = page.partition("\n## Processes")[2]
    cells = [line.split("|")[1] for line in after_the_floors.splitlines() if line.startswith("| `")]
    folders = tuple(name for cell in cells for name in CODE.findall(cell) if name.endswith("/"))
    modules = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py")}
    unnamed = {name for name in modules - named if not name.startswith(folders)}
    missing = sorted(name for name in unnamed if not name.endswith(("__init__.py", "_version.py")))
    assert not missing, f"give each of these a row in docs/architecture.md: {missing}"


def test_architecture_describes_every_message() -> None:
    on_the_wire = {kind.__name__ for kind in (*get_args(messages.ToWorker), *get_args(messages.ToHub))}
    section = PAGES["docs/architecture.md"].partition("\n## The wire")[2].partition("\n## ")[0]
    described = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert described == on_the_wire


def test_named_errors_exist() -> None:
    named = set(re.findall(r"`(\w+(?:Error|Exceeded|Exception))`", "".join(map(prose, PAGES.keys() - {OF_RAY}))))
    places = (exceptions, serve_exceptions, plugin_errors, builtins)
    unknown = sorted(name for name in named if not any(hasattr(place, name) for place in places))
    assert not unknown


def test_every_decision_says_why() -> None:
    decisions = [page for page in PAGES if page.startswith("docs/adr/0")]
    numbers = [int(Path(page).name[:4]) for page in decisions]
    assert numbers == list(range(1, len(numbers) + 1))
    for page in decisions:
        for head in ("## Context", "## Decision", "## Consequences"):
            assert head in PAGES[page], f"{page} lacks {head!r}"
