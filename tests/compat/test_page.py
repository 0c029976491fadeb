"""docs/compatibility.md says what is true: each name that it calls working is there under `ray.`"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
RESULTS = Path(__file__).parents[1] / "engine_results.json"


def section(title: str) -> str:
    return PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def is_there(wanted: list[str], tmp_path: Path) -> dict[str, str]:
    """What looking up each name, ``module.name`` or ``module.Class.member``, ends with: "" where it is there."""
    script = tmp_path / "look.py"
    script.write_text(f"""
import importlib, json
found = {{}}
for name in {wanted!r}:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:length]))
            break
        except ImportError:
            continue
    try:
        for part in parts[length:]:
            value = getattr(value, part)
        found[name] = ""
    except AttributeError as error:
        found[name] = str(error)
print(json.dumps(found))
""")
    done = subprocess.run([sys.executable, "-m", "skate", "run", script], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_names_that_work_are_there(tmp_path: Path) -> None:
    wanted = [f"{names(place)[0]}.{name}" for place, works, _ in rows("Names") for name in names(works)]
    wanted += [names(name)[0] for name, _ in rows("What works differently")]
    wanted += [f"{names(module)[0]}.{name}" for module, listed in rows("Private names") for name in names(listed)]
    wanted += [names(module)[0] for module, state in rows("Libraries") if state == "works"]
    assert len(wanted) > 200
    assert {name: why for name, why in is_there(wanted, tmp_path).items() if why} == {}


def test_what_will_not_come_is_not_there(tmp_path: Path) -> None:
    never = [names(name)[0] for name, _ in rows("What will not come")]
    assert never
    assert [name for name, why in is_there(never, tmp_path).items() if not why] == []


def test_page_counts_its_names() -> None:
    good, total = map(int, re.findall(r"^(\d+) of (\d+) names work", section("Names"), re.MULTILINE)[0])
    cells = [(len(names(works)), len(names(missing))) for _, works, missing in rows("Names")]
    assert (good, total) == (sum(works for works, _ in cells), sum(works + missing for works, missing in cells))


def test_page_has_what_was_noted_of_each_engine() -> None:
    noted = json.loads(RESULTS.read_text())
    table = {row[0]: row[1:] for row in rows("The three engines")}
    assert list(noted) == ["local", "inline", "ray"]
    for what in ("passed", "marked gaps", "left out"):
        field = what.removesuffix(" gaps")
        assert table[f"contract: {what}"] == [str(row["contract"][field]) for row in noted.values()]
    assert not any(row["contract"]["failed"] for row in noted.values())


def test_conformance_gaps_are_listed_with_their_reasons() -> None:
    noted = json.loads(RESULTS.read_text())
    missed = [[case, name] for name, row in noted.items() for case in row.get("conformance", {}).get("not", ())]
    listed = [row for row in rows("The three engines") if "::" in row[0]]
    assert [[names(case)[0], names(engine)[0]] for case, engine, _ in listed] == missed
    assert all(reason for _, _, reason in listed)
