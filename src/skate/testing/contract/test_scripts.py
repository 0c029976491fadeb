"""Whole programs: starting on first use, output, exit codes, what is left behind."""

import pytest

from skate.testing.contract import not_yet

INIT = None

QUIET = "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)"


def test_first_call_starts_a_session(script):
    out = script(
        """
        @ray.remote
        def f():
            return "started by itself"

        assert not ray.is_initialized()
        print(ray.get(f.remote()), ray.is_initialized())
        """
    )
    assert out.returncode == 0, out.stderr
    assert "started by itself True" in out.stdout


@pytest.mark.parametrize("first", ["ray.put(1)", "A.remote()", "ray.get_runtime_context()", "ray.wait([])"])
def test_other_first_calls_start_a_session_too(script, first):
    out = script(
        f"""
        @ray.remote
        class A:
            pass

        kept = {first}
        print("up" if ray.is_initialized() else "down")
        """
    )
    assert "up" in out.stdout, out.stderr


def test_script_without_shutdown_ends_well(script):
    out = script(
        f"""
        {QUIET}

        @ray.remote
        def f(x):
            return x * 2

        print(sum(ray.get([f.remote(i) for i in range(10)])))
        """
    )
    assert (out.returncode, out.stdout.strip()) == (0, "90"), out.stderr


def test_functions_and_classes_of_the_main_module(script):
    out = script(
        f"""
        import dataclasses

        LIMIT = 3

        @dataclasses.dataclass
        class Item:
            n: int

        def helper(item):
            return Item(min(item.n, LIMIT))

        @ray.remote
        def clip(item):
            return helper(item)

        @ray.remote
        class Store:
            def __init__(self):
                self.items = []

            def add(self, item):
                self.items.append(helper(item))
                return self.items

        if __name__ == "__main__":
            {QUIET}
            item = ray.get(clip.remote(Item(7)))
            assert isinstance(item, Item), item
            (kept,) = ray.get(Store.remote().add.remote(Item(9)))
            print(item.n, kept == Item(3))
        """
    )
    assert (out.returncode, out.stdout.strip()) == (0, "3 True"), out.stderr


def test_module_beside_the_script_can_be_imported_by_workers(script, tmp_path):
    (tmp_path / "beside_the_script.py").write_text("def f(x):\n    return x + 1\n")
    out = script(
        f"""
        import beside_the_script
        {QUIET}
        print(ray.get(ray.remote(beside_the_script.f).remote(1)))
        """
    )
    assert (out.returncode, out.stdout.strip()) == (0, "2"), out.stderr


def test_path_added_by_the_driver_holds_in_workers(script, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "far_module.py").write_text("def f(x):\n    return x + 1\n")
    out = script(
        f"""
        import os, sys
        sys.path.insert(0, {str(folder)!r})
        import far_module
        os.environ["PYTHONPATH"] = {str(folder)!r} + os.pathsep + os.environ.get("PYTHONPATH", "")
        {QUIET}
        print(ray.get(ray.remote(far_module.f).remote(1)))
        """
    )
    assert (out.returncode, out.stdout.strip()) == (0, "2"), out.stderr


@not_yet("inline", reason="prints go straight to the terminal", raises=AssertionError)
@pytest.mark.slow
def test_prints_of_workers_reach_the_driver_with_their_origin(script):
    out = script(
        """
        import sys, time
        ray.init(num_cpus=2, include_dashboard=False)

        @ray.remote
        def shout():
            print("hello from a task")
            print("complaint from a task", file=sys.stderr)

        @ray.remote
        class Speaker:
            def speak(self):
                print("hello from an actor")

        ray.get(shout.remote())
        speaker = Speaker.remote()
        ray.get(speaker.speak.remote())
        time.sleep(1.5)
        """
    )
    text = out.stdout + out.stderr
    assert out.returncode == 0
    for line in ("hello from a task", "complaint from a task", "hello from an actor"):
        assert line in text
    (task_line,) = [ln for ln in text.splitlines() if "hello from a task" in ln]
    assert "shout" in task_line and "pid=" in task_line
    (actor_line,) = [ln for ln in text.splitlines() if "hello from an actor" in ln]
    assert "Speaker" in actor_line and "pid=" in actor_line


@not_yet("inline", reason="prints go straight to the terminal", raises=AssertionError)
def test_prints_of_workers_can_be_silenced(script):
    out = script(
        f"""
        import time
        {QUIET}

        @ray.remote
        def shout():
            print("hello from a task")
            return "value"

        print(ray.get(shout.remote()))
        time.sleep(0.5)
        """
    )
    assert "hello from a task" not in out.stdout + out.stderr
    assert "value" in out.stdout


def test_uncaught_task_error_ends_the_script_with_its_text(script):
    out = script(
        f"""
        {QUIET}

        @ray.remote
        def fail():
            raise LookupError("not handled")

        ray.get(fail.remote())
        """
    )
    assert out.returncode == 1
    assert "not handled" in out.stderr and "LookupError" in out.stderr


def test_exit_code_of_the_script_is_its_own(script):
    out = script(
        f"""
        import sys
        {QUIET}
        ray.put(1)
        sys.exit(7)
        """
    )
    assert out.returncode == 7


def test_exit_handlers_of_the_driver_may_still_use_the_session(script):
    out = script(
        f"""
        import atexit
        {QUIET}

        @ray.remote
        def f():
            return "late result"

        atexit.register(lambda: print(ray.get(f.remote())))
        """
    )
    assert "late result" in out.stdout, out.stderr


def test_worker_processes_end_with_the_script(script):
    import os

    from skate.testing.contract.tools import eventually

    out = script(
        f"""
        import os
        {QUIET}

        @ray.remote
        class A:
            def pid(self):
                return os.getpid()

        actors = [A.remote() for _ in range(2)]
        print(*ray.get([a.pid.remote() for a in actors]))
        """
    )
    pids = [int(p) for p in out.stdout.split()]
    assert len(pids) == 2, out.stderr
    assert eventually(lambda: not any(os.path.exists(f"/proc/{p}") for p in pids if p), 20)


def test_task_sees_the_working_directory_of_the_driver(script, tmp_path):
    out = script(
        f"""
        import os
        os.chdir({str(tmp_path)!r})
        {QUIET}
        print(ray.get(ray.remote(lambda: os.getcwd()).remote()))
        """
    )
    assert out.stdout.strip() == str(tmp_path), out.stderr


def test_environment_of_the_driver_is_seen_by_tasks(script):
    out = script(
        f"""
        import os
        {QUIET}
        print(ray.get(ray.remote(lambda: os.environ.get("CONTRACT_OUTER")).remote()))
        """,
        CONTRACT_OUTER="passed on",
    )
    assert out.stdout.strip() == "passed on", out.stderr
