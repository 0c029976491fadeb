"""Ctrl-C at every point of the engine that a verb goes through: none of them leaves the session broken."""

from __future__ import annotations

import pytest
from programs import output_of

PROGRAM = """
import faulthandler, os.path

ROOT = os.path.dirname(ray.__file__)
ray.init(num_cpus=2)
mode, step = sys.argv[1], int(sys.argv[2])
large = b"x" * (1 << 20)

@ray.remote
def echo(value=0):
    return value

@ray.remote
class Counter:
    def next(self):
        return 1

@ray.remote
def sleeper():
    time.sleep(1000)

actor, pending = Counter.remote(), sleeper.remote()

def act():
    if mode == "get":
        ray.get(echo.remote(1), timeout=60)
    elif mode == "put":
        ray.get(ray.put(large))
    elif mode == "wait":
        ray.wait([pending, echo.remote(1)], timeout=60)
    elif mode == "call":
        ray.get(actor.next.remote(), timeout=60)
    elif mode == "actor":
        ray.get(Counter.remote().next.remote(), timeout=60)
    elif mode == "cancel":
        ray.cancel(echo.remote())

class Interrupter:
    # Sends SIGINT where Python itself looks for signals: at the start of a function, and at the end of a call.

    def __init__(self, at):
        self.left, self.where = at, None

    def __call__(self, frame, event, arg):
        name = frame.f_code.co_filename
        if event in ("call", "c_return") and name.startswith(ROOT) and not name.endswith("interrupts.py"):
            self.left -= 1
            if self.left == 0:
                self.where = f"{os.path.basename(name)}:{frame.f_lineno} {frame.f_code.co_name} {event}"
                signal.raise_signal(signal.SIGINT)

def attempt(at):
    interrupter = Interrupter(at)
    try:
        try:
            sys.setprofile(interrupter)
            act()
            sys.setprofile(None)
            if interrupter.where is not None:
                for _ in range(1000):  # one that had to wait comes now
                    time.sleep(0.02)
        finally:
            sys.setprofile(None)
        came = False
    except KeyboardInterrupt:
        came = True
    return interrupter.where, came

def is_well(value):
    try:
        return ray.get(echo.remote(value), timeout=60) == value and ray.get(actor.next.remote(), timeout=60) == 1
    except Exception as error:
        return print(repr(error))

for _ in range(5):
    act()
at, faults = 1, []
while True:
    faulthandler.dump_traceback_later(100, exit=True)  # where the program hangs, if it does
    where, came = attempt(at)
    if where is None:
        break
    if not came:
        faults.append("lost: " + where)
    if not is_well(at):
        print("BROKEN by Ctrl-C at", where, "earlier:", faults, flush=True)
        os._exit(1)
    at += step
faulthandler.cancel_dump_traceback_later()
gc.collect()
print(at, "points")
engine = ray.core.engine.current()
deadline = time.monotonic() + 30
while time.monotonic() < deadline and (len(engine.hub.rows) > 2 or engine.hub.arena.used):
    ray.get(echo.remote())
    gc.collect()
    time.sleep(0.05)
print("rows", len(engine.hub.rows), "bytes", engine.hub.arena.used)
assert not faults, faults
assert len(engine.hub.rows) == 2, engine.hub.rows
assert engine.hub.arena.used == 0
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["get", "put", "wait", "call", "actor", "cancel"])
def test_ctrl_c_anywhere_is_raised_and_leaves_the_session_whole(mode: str) -> None:
    print(output_of(PROGRAM, mode, "1", timeout=280))
