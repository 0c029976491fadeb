"""Workers in a container: the command that runs their zygote there, and how it gets its descriptors."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Mapping, Sequence

MODULES = ("skate", "msgspec", "cloudpickle")
"""What a worker imports; the image need not have it."""


def copy_modules(folder: str) -> None:
    """Put what a worker imports into `folder`, which the container will see at the same path."""
    os.makedirs(folder)
    for name in MODULES:
        found = importlib.util.find_spec(name)
        assert found is not None and found.submodule_search_locations
        source = found.submodule_search_locations[0]
        shutil.copytree(source, os.path.join(folder, name), ignore=shutil.ignore_patterns("__pycache__"))


def command(
    tool: str, image: str, options: Sequence[str], folders: Sequence[str], variables: Mapping[str, str]
) -> list[str]:
    """What runs the Python of an image with these folders; the program and its arguments follow.

    The container shares the machine's network and processes, as in Ray: the zygote watches the driver by its pid.
    """
    podman = os.path.basename(tool) == "podman"
    volumes = [word for folder in folders for word in ("-v", f"{folder}:{folder}")]
    chosen = [word for name, text in variables.items() for word in ("--env", f"{name}={text}")]
    return [
        *(tool, "run", "--rm", "--network=host", "--pid=host", "--ipc=host"),
        *(["--userns=keep-id"] if podman else [f"--user={os.getuid()}:{os.getgid()}"]),
        *volumes,
        *chosen,
        *options,
        *("--entrypoint", "python3", image),
    ]


class Hatch:
    """A socket in the file system at which a zygote in a container takes its descriptors; one comes, once."""

    def __init__(self, folder: str, descriptors: Sequence[int]) -> None:
        self.path = os.path.join(folder, "hatch")
        self.descriptors = list(descriptors)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen(1)

    def open(self, _: int = 0) -> None:
        """Somebody is there: hand over."""
        link, _address = self.listener.accept()
        with link:
            socket.send_fds(link, [b"here"], self.descriptors)
        self.close()

    def close(self) -> None:
        """Let nobody in any more."""
        self.listener.close()
        for number in self.descriptors:
            os.close(number)
        self.descriptors = []
        os.unlink(self.path)
