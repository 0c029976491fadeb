"""Packages made on the spot, for environments that are built without a network."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BACKEND = """
import pathlib, sys, time
def build_wheel(folder, *_):
    with open({counter!r}, "a") as file:
        file.write("built\\n")
    {what}
    sys.path.insert(0, {helpers!r})
    from wheels import wheel
    return wheel(pathlib.Path(folder), {name!r}, "1.0").name
"""


def wheel(folder: Path, name: str = "tinypkg", version: str = "1.0", requires: Sequence[str] = ()) -> Path:
    """A wheel of one module, which knows its version."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {other}\n" for other in requires)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def source(folder: Path, what: str = "", name: str = "slowpkg") -> Path:
    """A package to be built from source; its build runs `what`, and notes in ``counter`` beside it that it began."""
    place = folder / name
    place.mkdir(parents=True)
    (place / "pyproject.toml").write_text(
        f'[project]\nname = "{name}"\nversion = "1.0"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    helpers = str(Path(__file__).parent)
    text = BACKEND.format(counter=str(folder / "counter"), what=what, helpers=helpers, name=name)
    (place / "backend.py").write_text(text)
    return place


def pip(folder: Path, *packages: str, **more: Any) -> dict[str, Any]:
    """A runtime environment of packages that lie in `folder`."""
    options = ["--no-index", "--find-links", str(folder)]
    return {"pip": {"packages": list(packages), "pip_install_options": options, **more}}


def uv(folder: Path, *packages: str, **more: Any) -> dict[str, Any]:
    """The same with uv."""
    options = ["--no-index", "--offline", "--no-cache", "--find-links", str(folder)]
    return {"uv": {"packages": list(packages), "uv_pip_install_options": options, **more}}
