"""Run as a program: keeps what a command starts from outliving the driver, until a zygote that watches it itself is up.

``keeper.py PID COMMAND...`` runs the command, and ends its whole process group when the process PID ends. Imports
nothing of Skate, and little else: it stays for as long as the command.
"""

import os
import select
import signal
import sys


def main(driver: int, command: list[str]) -> int:
    """Run a command for as long as the driver lives; its exit code."""
    try:
        gone = os.pidfd_open(driver)
        child = os.posix_spawnp(command[0], command, os.environ)
    except OSError as problem:
        print(f"{command[0]}: {problem.strerror}", file=sys.stderr)
        return 127
    for fd in (3, 4):  # the command's, which would seem to live while we hold them
        try:
            os.close(fd)
        except OSError:
            continue  # it has none
    ended = os.pidfd_open(child)
    ready = select.select([gone, ended], [], [])[0]
    if gone in ready:
        os.killpg(0, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
