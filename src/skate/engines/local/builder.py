"""The process that makes an environment: installs packages, unpacks archives, pulls images. One for each that is made.

It is a process so that it can be waited for, timed and ended without a thread: the driver ends its whole group. It
ends itself when the driver goes. Its tools write to a file in memory that the driver shows the end of when they fail,
and what came of it goes to another: a JSON object with ``error``, or with what to use.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from skate.core import env_cache

SAID_FD = 3
Request = dict[str, Any]
Said = dict[str, Any]


class Failed(Exception):
    """The environment cannot be made; the text says why."""


def main() -> None:
    """Do what the request in the last argument asks for."""
    request = json.loads(sys.argv[-1])
    threading.Thread(target=_end_with, args=(request["driver"],), daemon=True).start()
    os.environ.update(request["variables"])
    os.environ.update(PIP_NO_INPUT="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    for name in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"):
        os.environ.pop(name, None)  # they would have a tool look in the driver's places
    if request.get("working_dir"):
        os.environ["RAY_RUNTIME_ENV_CREATE_WORKING_DIR"] = request["working_dir"]
    try:
        said = MAKERS[request["kind"]](request)
    except Failed as problem:
        said = {"error": str(problem)}
    except (OSError, ValueError, zipfile.BadZipFile, tarfile.TarError, shutil.Error) as problem:
        said = {"error": f"{type(problem).__name__}: {problem}"}
    os.write(SAID_FD, json.dumps(said).encode())


def _end_with(driver: int) -> None:
    """End this process and its tools when the driver ends."""
    try:
        gone = os.pidfd_open(driver)
    except ProcessLookupError:
        pass  # it is gone already
    else:
        select.select([gone], [], [])
    os.killpg(0, signal.SIGKILL)


# ------------------------------------------------------------------------ packages


def _cached(build: Callable[[Request, str], Said]) -> Callable[[Request], Said]:
    """Build an entry of the cache, unless it is there: by us in another session, or by another program."""

    def make(request: Request) -> Said:
        folder, key = request["folder"], request["key"]
        lock = env_cache.Lock(folder, key)
        try:
            lock.take(alone=True, wait=True)
            path = os.path.join(folder, key)
            if not os.path.exists(os.path.join(path, env_cache.READY)):
                shutil.rmtree(path, ignore_errors=True)
                os.mkdir(path)
                try:
                    said = build(request, path)
                    env_cache.finish(folder, key, {**said, "request": request["request"]})
                except BaseException:
                    shutil.rmtree(path, ignore_errors=True)
                    raise
        finally:
            lock.close()
        env_cache.clear(folder, keep=env_cache.limit(), spare=key)
        return {"key": key}

    return make


def _venv(request: Request, path: str) -> Said:
    """Packages of pip or uv over those of the driver."""
    place = os.path.join(path, "env")
    _run([*request["base"], "-m", "venv", "--without-pip", place])
    python = os.path.join(place, "bin", "python")
    _show_driver(python, request["behind"])
    requirements = os.path.join(path, "requirements.txt")
    os.environ.update(VIRTUAL_ENV=place, PATH=os.path.join(place, "bin") + os.pathsep + os.environ.get("PATH", ""))
    packages, options = request["packages"], request["options"]
    if request["tool"] == "uv":
        packages, options = ([os.path.expandvars(part) for part in parts] for parts in (packages, options))
    with open(requirements, "w", encoding="utf-8") as file:
        file.write("\n".join(packages) + "\n")
    INSTALLERS[request["tool"]](request, python, requirements, options)
    return {"python": [python], "prefix": place}


def _show_driver(python: str, behind: list[str]) -> None:
    """Have the environment see the driver's packages behind its own, as with --system-site-packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    if not os.path.isdir(own):
        raise Failed(f"{python} does not run, or does not say where its packages lie")
    with open(os.path.join(own, "_skate_driver.pth"), "w", encoding="utf-8") as file:
        file.write("\n".join(behind) + "\n")


def _pip(request: Request, python: str, requirements: str, options: Sequence[str]) -> None:
    pip = _pip_of(python)
    if request["version"]:
        _run([*pip, "install", "--no-cache-dir", f"pip{request['version']}"])
    _run([*pip, "install", *options, "-r", requirements])
    if request["check"]:
        _run([*pip, "check"])


def _pip_of(python: str) -> list[str]:
    """pip in the environment: the driver's, which it sees, or the one that Python brings."""
    pip = [python, "-I", "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
        _run([python, "-I", "-m", "ensurepip"])
    return pip


def _uv(request: Request, python: str, requirements: str, options: Sequence[str]) -> None:
    uv = _find_uv(request, python)
    _run([uv, "pip", "install", "--python", python, *options, "-r", requirements])
    if request["check"]:
        _run([uv, "pip", "check", "--python", python])


def _find_uv(request: Request, python: str) -> str:
    """The program uv: beside the driver's Python or on the path; else, or in a version asked for, pip installs it."""
    if not request["version"]:
        found = shutil.which("uv", path=os.pathsep.join([*request["scripts"], os.environ.get("PATH", "")]))
        if found is not None:
            return found
    try:
        _run([*_pip_of(python), "install", "--no-cache-dir", f"uv{request['version'] or ''}"])
    except Failed as problem:
        raise Failed(
            f"there is no uv here, and pip cannot install it: pip install 'skate-ray[uv]'. {problem}"
        ) from None
    return os.path.join(os.path.dirname(python), "uv")


INSTALLERS: dict[str, Callable[[Request, str, str, Sequence[str]], None]] = {"pip": _pip, "uv": _uv}

# --------------------------------------------------------------------------- conda


def _conda() -> str:
    for name in (os.environ.get("CONDA_EXE"), "conda", "mamba", "micromamba"):
        found = shutil.which(name) if name else None
        if found is not None:
            return found
    raise Failed("there is no conda, mamba or micromamba on the path, and CONDA_EXE names none")


def _conda_env(request: Request, path: str) -> Said:
    """An environment that conda makes of a description."""
    place, conda, spec = os.path.join(path, "env"), _conda(), request["spec"]
    described = os.path.join(path, "environment.yml")
    if isinstance(spec, str):
        shutil.copyfile(spec, described)
    else:
        with open(described, "w", encoding="utf-8") as file:
            json.dump(spec, file)  # JSON is YAML
    command = ["create", "-y"] if os.path.basename(conda) == "micromamba" else ["env", "create"]
    _run([conda, *command, "-p", place, "-f", described])
    return {"python": [_python_in(place)], "prefix": place}


def _conda_named(request: Request) -> Said:
    """An environment of conda that is there already."""
    name: str = request["name"]
    if os.path.isabs(name):
        return {"python": [_python_in(name)], "prefix": name}
    conda = _conda()
    answer = subprocess.run([conda, "env", "list", "--json"], capture_output=True, text=True, check=False)
    try:
        places = json.loads(answer.stdout)["envs"]
    except (ValueError, KeyError, TypeError):
        raise Failed(f"{conda} env list --json exited with code {answer.returncode}: {answer.stderr.strip()}") from None
    for number, place in enumerate(places):
        if os.path.basename(place) == name or (name == "base" and not number):
            return {"python": [_python_in(place)], "prefix": place}
    raise Failed(f"conda knows no environment called {name!r}; it knows {', '.join(map(os.path.basename, places))}")


def _python_in(place: str) -> str:
    python = os.path.join(place, "bin", "python")
    if not os.access(python, os.X_OK):
        raise Failed(f"the environment {place} has no Python: name it among its dependencies")
    return python


# ------------------------------------------------------------------ images and files


def _image(request: Request) -> Said:
    """An image, and the program that runs it."""
    from skate.engines.local.container import copy_modules

    tool = shutil.which("podman") or shutil.which("docker")
    if tool is None:
        raise Failed(f"the image {request['image']} needs podman or docker, and neither is on the path")
    there = subprocess.run([tool, "image", "inspect", request["image"]], capture_output=True, check=False)
    if there.returncode:
        _run([tool, "pull", request["image"]])
    copy_modules(request["target"])
    return {"tool": tool, "modules": request["target"]}


def _files(request: Request) -> Said:
    from skate.core.packages import fetch

    path = fetch(request["source"], request["target"], request["excludes"], modules=request["modules"])
    return {"path": path}


def _run(command: Sequence[str]) -> None:
    """Run a tool; `Failed` when it does not end well."""
    print(f"$ {' '.join(command)}", flush=True)
    try:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        raise Failed(f"{command[0]} cannot be run: {error.strerror}") from None
    if code:
        raise Failed(f"{' '.join(command)}: exited with code {code}")


MAKERS: dict[str, Callable[[Request], Said]] = {
    "venv": _cached(_venv),
    "conda": _cached(_conda_env),
    "named": _conda_named,
    "image": _image,
    "files": _files,
}
