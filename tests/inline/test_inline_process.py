"""Debuggers, signals and scripts: what a program sees that runs in one process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

QUIET = "import skate as ray\nray.init(engine='inline', num_cpus=2)\n"


def run(body, send="", code=0, **options):
    """What a script prints; `send` is its standard input."""
    out = subprocess.run(
        [sys.executable, *options.get("flags", ()), "-c", QUIET + textwrap.dedent(body)],
        input=send,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert out.returncode == code, out.stderr
    return out


def test_breakpoint_stops_in_a_task_and_in_an_actor(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        QUIET
        + textwrap.dedent(
            """
            @ray.remote
            def double(number):
                breakpoint()
                return 2 * number

            @ray.remote
            class Keeper:
                def keep(self, thing):
                    breakpoint()
                    return thing

            print("result", ray.get(double.remote(21)))
            print("result", ray.get(Keeper.remote().keep.remote("it")))
            """
        )
    )
    out = subprocess.run(
        [sys.executable, str(script)],
        input="p number\nlist\nc\np 'the ' + thing\nc\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert out.returncode == 0, out.stderr
    assert "21" in out.stdout and "return 2 * number" in out.stdout and "the it" in out.stdout
    assert "result 42" in out.stdout and "result it" in out.stdout


@pytest.mark.parametrize("inside_loop", [False, True])
def test_ctrl_c_reaches_the_program(inside_loop):
    out = run(
        f"""
        import asyncio, os, signal, time

        @ray.remote
        def f():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)

        @ray.remote
        def outer():
            return ray.get(f.remote())

        async def main():
            outer.remote()

        try:
            asyncio.run(main()) if {inside_loop} else outer.remote()
        except KeyboardInterrupt:
            print("reached the program")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

        @ray.remote
        def g():
            return "goes on"

        print(ray.get(g.remote()))
        """
    )
    assert "reached the program" in out.stdout
    assert "goes on" in out.stdout


def test_timeout_signal_of_a_program_goes_through_a_task():
    out = run(
        """
        import signal, time

        class Late(Exception):
            pass

        def late(*_):
            raise Late

        signal.signal(signal.SIGALRM, late)

        @ray.remote
        def f():
            time.sleep(20)

        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            f.remote()
        except Late:
            print("late", signal.getsignal(signal.SIGALRM) is late)
        """
    )
    assert out.stdout.strip() == "late True"


def test_classes_of_the_main_module_keep_their_state_and_see_its_globals():
    out = run(
        """
        limit = 1

        class Item:
            made = []

            def over(self):
                return limit

        @ray.remote
        def make():
            return Item()

        first = ray.get(make.remote())
        made = Item.made
        limit = 2
        Item.made.append("kept")
        second = ray.get(make.remote())
        print(first.over(), second.over(), Item.made is made, type(second) is Item)
        """
    )
    assert out.stdout.strip() == "2 2 True True"


def test_threads_of_actors_do_not_hold_the_program_up():
    out = run(
        """
        import time

        @ray.remote(max_concurrency=2)
        class A:
            def nap(self):
                time.sleep(60)

        @ray.remote
        class B:
            async def hang(self):
                import asyncio
                await asyncio.sleep(60)

        a, b = A.remote(), B.remote()
        refs = [a.nap.remote(), b.hang.remote()]
        time.sleep(0.1)
        print("end")
        """
    )
    assert out.stdout.strip() == "end"
    assert "Traceback" not in out.stderr
