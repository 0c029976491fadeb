"""Run as a program by the Python of an environment: becomes the zygote of its workers.

Nothing of Skate can be imported before the search path is set, and this Python may be an old one that could not read
it: so this file is plain. The argument is JSON: ``version`` of the driver's Python, ``before`` and ``behind`` (the
driver's search path around the standard library), ``driver`` (its pid), ``capacity`` of the arena, and ``socket``, the
path of one over which the descriptors come to where they cannot be inherited.
"""

import array
import json
import os
import socket
import sys
from typing import Any

CONTROL_FD = 3
ARENA_FD = 4


def main(given: Any) -> None:
    """Be a zygote."""
    version = list(sys.version_info[:2])
    if version != given["version"]:
        sys.exit(
            "{} is Python {}.{}, and the driver runs {}.{}: functions cannot pass between them".format(
                sys.executable, *version, *given["version"]
            )
        )
    if given["socket"]:
        receive(given["socket"])
    here = os.path.dirname(os.path.abspath(__file__))
    own = [entry for entry in sys.path if entry and os.path.abspath(entry) != here]
    # What driver and workers speak with each other must be the driver's, whatever the environment has of it: it is
    # imported first, and stays.
    library = os.path.dirname(os.__file__)
    standard = [entry for entry in own if entry.startswith(library) and not entry.endswith("-packages")]
    sys.path[:] = standard + given["before"] + given["behind"] + own
    try:
        import cloudpickle  # noqa: F401
        import msgspec  # noqa: F401

        from skate.engines.local import zygote
    except ImportError as error:
        sys.exit(f"{sys.executable} cannot run workers: {type(error).__name__}: {error}")
    sys.path[:] = list(dict.fromkeys(given["before"] + own + given["behind"]))
    zygote.main(given["driver"], given["capacity"])


def receive(path: str) -> None:
    """Take over the two descriptors from the driver."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.connect(path)
        ancillary = link.recvmsg(16, socket.CMSG_SPACE(2 * array.array("i").itemsize))[1]
        numbers = array.array("i")
        for _, _, data in ancillary:
            numbers.frombytes(data)
    copies = [os.dup(number) for number in numbers]
    while min(copies) <= ARENA_FD:
        copies = [os.dup(number) for number in copies]
    os.dup2(copies[0], CONTROL_FD)
    os.dup2(copies[1], ARENA_FD)


if __name__ == "__main__":
    main(json.loads(sys.argv[-1]))
