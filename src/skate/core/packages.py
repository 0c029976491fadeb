"""Files of a runtime environment that are not used where they lie: archives, and parts of directories."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable

from skate.core.environment import local_path
from skate.core.environment_fields import ARCHIVES


def fetch(source: str, target: str, excludes: list[str], *, modules: bool) -> str:
    """Put the files of `source` under the directory `target`, which is not there yet; returns what to use of them.

    An archive is unpacked. One directory that holds all the rest is left out, as in Ray for what a URI names, unless
    it is itself a package and `modules` are wanted. A directory is copied, but for what `excludes` names in the
    manner of a .gitignore file.

    Raises OSError, ValueError, `zipfile.BadZipFile` or `tarfile.TarError` for what is not there or no archive.
    """
    path = local_path(source)
    if os.path.isdir(path):
        inside = os.path.join(target, os.path.basename(path)) if modules else target
        copy(path, inside, excludes)
        return inside if modules else target
    if path.startswith(("http://", "https://")):
        with tempfile.TemporaryDirectory() as folder:
            return _unpack(_download(path, folder), target, modules=modules, uri=True)
    return _unpack(path, target, modules=modules, uri=source != path)


def _download(url: str, folder: str) -> str:
    from urllib.request import urlopen

    path = os.path.join(folder, os.path.basename(url.partition("?")[0]))
    with urlopen(url) as answer, open(path, "wb") as file:
        shutil.copyfileobj(answer, file)
    return path


def _unpack(path: str, target: str, *, modules: bool, uri: bool) -> str:
    os.makedirs(target)
    if path.endswith((".zip", ".whl")):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(target)
    elif path.endswith(ARCHIVES):
        with tarfile.open(path) as archive:
            archive.extractall(target, filter="data")
    else:
        raise ValueError(f"{path} is no archive: its name must end in one of {', '.join(ARCHIVES)}")
    names = os.listdir(target)
    only = os.path.join(target, names[0]) if len(names) == 1 else ""
    if uri and os.path.isdir(only) and not (modules and os.path.exists(os.path.join(only, "__init__.py"))):
        return only
    return target


def copy(source: str, target: str, excludes: list[str]) -> None:
    """Copy a directory, but for what `excludes` names."""
    is_excluded = excluder(excludes)

    def ignore(folder: str, names: list[str]) -> set[str]:
        inside = os.path.relpath(folder, source)
        found = set()
        for name in names:
            path = name if inside == "." else os.path.join(inside, name)
            if is_excluded(path, os.path.isdir(os.path.join(folder, name))):
                found.add(name)
        return found

    shutil.copytree(source, target, symlinks=True, ignore=ignore)


def excluder(patterns: list[str]) -> Callable[[str, bool], bool]:
    """Whether a path (relative, and whether it is a directory) is excluded by patterns in the manner of .gitignore.

    The last pattern that matches decides, and ``!`` takes back.
    """
    rules = [_rule(pattern) for pattern in patterns if pattern.strip() and not pattern.startswith("#")]

    def is_excluded(path: str, is_folder: bool) -> bool:
        excluded = False
        for expression, excludes, folders_only in rules:
            if (is_folder or not folders_only) and expression.fullmatch(path):
                excluded = excludes
        return excluded

    return is_excluded


def _rule(pattern: str) -> tuple[re.Pattern[str], bool, bool]:
    excludes = not pattern.startswith("!")
    text = pattern.rstrip() if excludes else pattern[1:].rstrip()
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    anywhere = "/" not in text
    parts = ["(?:.*/)?" if anywhere else ""]
    for part in re.findall(r"\*\*/|/\*\*$|\*\*|\*|\?|\[[^]]+\]|.", text.lstrip("/")):
        parts.append(_PARTS.get(part) or (_set(part) if len(part) > 1 else re.escape(part)))
    return re.compile("".join(parts), re.DOTALL), excludes, folders_only


_PARTS = {"**/": "(?:.*/)?", "/**": "/.*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _set(text: str) -> str:
    return "[^" + text[2:] if text.startswith("[!") else text
