"""Ctrl-C: raised where the driver waits or works, once for each time it is pressed; the session stays usable."""

from __future__ import annotations

import os
import pty
import random
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from programs import BEGIN, eventually, marked, output_of, program

import skate
from skate.core.engine import current

LOOPS = {
    "get": "ray.get(endless)",
    "get of many": "ray.get([endless, *[echo.remote(i) for i in range(100)]])",
    "wait": "ray.wait([endless])",
    "next of a stream": "next(stream)",
    "get loop": "while True: ray.get(echo.remote(1))",
    "submit loop": "while True: echo.remote(1)",
    "call loop": "while True: cell.get.remote()",
    "put loop": "while True: ray.put(1)",
    "large put loop": "while True: ray.put(large)",
    "wait loop": "while True: ray.wait([endless], timeout=0.001)",
    "actor loop": "while True: Cell.remote()",
    "cancel loop": "while True: ray.cancel(echo.remote(1))",
    "sleep": "time.sleep(100)",
}
PROGRAM = """
import random

@ray.remote
def echo(value):
    return value

@ray.remote
def sleeper():
    time.sleep(1000)

@ray.remote
class Cell:
    def get(self):
        return 1

@ray.remote(num_returns="streaming")
def nothing():
    time.sleep(1000)
    yield 1

ray.init(num_cpus=4)
large = b"x" * (1 << 20)
cell, endless, stream = Cell.remote(), sleeper.remote(), nothing.remote()
ray.get(cell.get.remote())

def work():
    {loop}

print("ready", flush=True)
"""
ONCE = """
for round_number in range(int(sys.argv[1])):
    try:
        print("working", flush=True)
        work()
    except KeyboardInterrupt:
        print("caught", flush=True)
        assert ray.get(echo.remote(round_number), timeout=60) == round_number
        assert ray.get(cell.get.remote(), timeout=60) == 1
print("survived", flush=True)
"""


@pytest.mark.parametrize("where", LOOPS)
def test_caught_ctrl_c_comes_in_time_and_leaves_the_session_usable(where: str) -> None:
    rounds, rnd = 10, random.Random(where)
    with program(PROGRAM.replace("{loop}", LOOPS[where]) + ONCE, str(rounds)) as running:
        for _ in range(rounds):
            running.until("working")
            time.sleep(rnd.uniform(0.01, 0.04))
            running.interrupt()
            # until() would wait for ever for the next round if this one were lost
            assert select.select([running.process.stdout], [], [], 60)[0], f"a Ctrl-C in {where!r} was lost"
            running.until("caught")
        status, out, err = running.end()
        assert (status, out.strip()) == (0, "survived"), err


@pytest.mark.parametrize("where", ["get", "submit loop", "wait", "sleep"])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_a_script_with_one_traceback_and_nothing_left(where: str, times: int) -> None:
    with program(PROGRAM.replace("{loop}", LOOPS[where]) + "work()") as running:
        running.until("ready")
        time.sleep(0.3)
        for _ in range(times):
            running.interrupt()
            time.sleep(0.02)
        status, _, err = running.end(90)
        assert status in (-signal.SIGINT, 130), err
        assert err.rstrip().splitlines()[-1].startswith("KeyboardInterrupt"), err
        assert eventually(lambda: not marked(running.mark))


def test_ctrl_c_on_a_terminal_reaches_the_driver_and_not_its_workers() -> None:
    text = BEGIN + PROGRAM.replace("{loop}", "ray.get(endless)")
    text += "try:\n print('at work', flush=True)\n work()\nexcept KeyboardInterrupt: print('caught', ray.get(echo.remote(5), timeout=60), flush=True)\n"
    text += "print('the end', flush=True)\n"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", text])
    said = b""
    try:
        deadline, pressed = time.monotonic() + 60, False
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    said += os.read(terminal, 4096)
                except OSError:
                    break
            if b"at work" in said and not pressed:
                pressed = True
                time.sleep(0.3)
                os.write(terminal, b"\x03")
    finally:
        if b"the end" not in said:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    assert b"caught 5" in said, said
    assert b"Traceback" not in said, said


def test_ctrl_c_goes_to_the_users_own_handler_if_there_is_one(tmp_path: Path) -> None:
    text = """
    seen, path = [], sys.argv[1]

    @ray.remote
    def until():
        while not os.path.exists(path):
            time.sleep(0.01)

    signal.signal(signal.SIGINT, lambda *_: seen.append(open(path, "w").close()))
    ray.init(num_cpus=1)
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    ray.get(until.remote())
    print(seen)
    ray.shutdown()
    print(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)
    """
    assert output_of(text, str(tmp_path / "seen")).splitlines() == ["[None]", "True"]


def test_ctrl_c_that_waited_comes_when_an_actor_has_been_made_and_the_actor_ends(session: None) -> None:
    """A loop that makes actors is nearly always inside the engine: nothing else would raise it in time."""

    @skate.remote
    class Cell:
        """Nothing is asked of it."""

    engine: Any = current()
    engine.pump.interrupts.waiting_since = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Cell.remote()
    assert eventually(lambda: [row["state"] for row in engine.state("actors")] in ([], ["DEAD"]))


def test_shutdown_puts_pythons_own_handler_back() -> None:
    text = """
    for _ in range(2):
        ray.init(num_cpus=1)
        ray.shutdown()
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """
    assert output_of(text).split() == ["True", "True"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_hundred_interrupts_of_a_busy_program_lose_nothing() -> None:
    loop = "while True: ray.get([echo.remote(ray.put(i)) for i in range(20)] + [cell.get.remote()])"
    finish = """
import gc
gc.collect()
engine = ray.core.engine.current()
deadline = time.monotonic() + 30
while len(engine.hub.rows) > 4 and time.monotonic() < deadline:
    ray.get(echo.remote(1))
    time.sleep(0.05)
print(len(engine.hub.rows) <= 4 or engine.hub.rows)
"""
    rnd = random.Random(7)
    with program(PROGRAM.replace("{loop}", loop) + ONCE + finish, "200") as running:
        for i in range(200):
            running.until("working")
            time.sleep(rnd.uniform(0.001, 0.03))
            running.interrupt()
            assert select.select([running.process.stdout], [], [], 60)[0], f"Ctrl-C number {i} was lost"
            running.until("caught")
        status, out, err = running.end()
        assert (status, out.split()) == (0, ["survived", "True"]), err
