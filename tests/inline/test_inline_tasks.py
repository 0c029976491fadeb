"""Tasks run at the call, in the calling thread, on copies."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import time

import numpy as np
import pytest

import skate
from skate.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    ObjectStoreFullError,
    RayTaskError,
    TaskCancelledError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

pytestmark = pytest.mark.usefixtures("engine")


def test_task_has_run_when_remote_returns():
    thread = []

    @skate.remote
    def f():
        return threading.get_ident(), time.monotonic()

    ref = f.remote()
    after = time.monotonic()
    thread, ran = skate.get(ref)
    assert thread == threading.get_ident() and ran <= after


def test_importable_functions_run_themselves_and_local_ones_as_copies():
    seen = []

    @skate.remote
    def local():
        seen.append(1)
        return len(seen)

    assert skate.get([local.remote(), local.remote()]) == [1, 2]
    assert seen == []


def test_classes_of_the_program_are_left_alone():
    class Counter:
        made = 0

        def __init__(self):
            type(self).made += 1

    @skate.remote
    def make():
        return Counter()

    ref = make.remote()
    Counter.made = 5
    assert isinstance(skate.get(ref), Counter)
    assert Counter.made == 5


def test_task_may_run_an_event_loop_though_its_caller_does():
    @skate.remote
    def f():
        return asyncio.run(asyncio.sleep(0, "inner"))

    async def main():
        value = await f.remote()
        return value, asyncio.get_running_loop() is not None

    assert asyncio.run(main()) == ("inner", True)


def test_sys_exit_counts_as_a_crash_and_is_retried(tmp_path):
    path = tmp_path / "runs"

    @skate.remote(max_retries=2)
    def f():
        with open(path, "a") as out:
            out.write("x")
        sys.exit(3)

    with pytest.raises(WorkerCrashedError, match=r"f.*sys.exit\(3\) 3 times"):
        skate.get(f.remote())
    assert path.read_text() == "xxx"


def test_attempts_are_counted_in_the_context():
    @skate.remote(max_retries=3, retry_exceptions=[ValueError])
    def f():
        attempt = skate.get_runtime_context().get_attempt_number()
        if attempt < 2:
            raise ValueError(attempt)
        return attempt

    assert skate.get(f.remote()) == 2


def test_interrupt_raised_by_a_task_is_its_own():
    @skate.remote
    def f():
        raise KeyboardInterrupt

    with pytest.raises(TaskCancelledError):
        skate.get(f.remote())


def test_infeasible_task_warns_once_and_get_tells_instead_of_hanging(caplog):
    @skate.remote(num_cpus=64, resources={"disk": 1})
    def big():
        return 1

    @skate.remote
    def after(x):
        return x

    with caplog.at_level(logging.WARNING, "skate"):
        refs = [big.remote(), big.remote()]
    assert [record.getMessage().count("CPU: 64") for record in caplog.records] == [1]
    assert "CPU: 4" in caplog.text
    assert skate.wait(refs, timeout=0) == ([], refs)
    with pytest.raises(GetTimeoutError):
        skate.get(refs[0], timeout=0.01)
    with pytest.raises(TaskUnschedulableError, match="CPU: 64"):
        skate.get(refs[0])
    with pytest.raises(TaskUnschedulableError):
        skate.get(after.remote(refs[0]))
    with pytest.raises(TaskUnschedulableError):
        skate.wait([refs[0]])
    assert skate.wait([refs[0], after.remote(1)])[1] == [refs[0]]
    skate.cancel(refs[1])
    with pytest.raises(TaskCancelledError):
        skate.get(refs[1])


def test_put_larger_than_the_store_is_refused():
    skate.shutdown()
    skate.init(engine="inline", num_cpus=1, object_store_memory=80 * 1024 * 1024)
    with pytest.raises(ObjectStoreFullError, match="object_store_memory"):
        skate.put(np.zeros(11 << 20))

    @skate.remote
    def large():
        return np.zeros(11 << 20)

    with pytest.raises(ObjectStoreFullError):
        skate.get(large.remote())


def test_objects_are_freed_with_their_last_reference(engine):
    session = engine.session
    ref = skate.put([skate.put(np.zeros(1000))])
    assert session.used > 8000 and len(session.rows) == 2
    inner = skate.get(ref)
    del ref
    engine.state("nodes")
    assert len(session.rows) == 1
    del inner
    engine.state("nodes")
    assert not session.rows and session.used == 0


def test_ten_thousand_iterations_leave_the_tables_empty(engine):
    @skate.remote
    def f(x, box):
        if x % 2:
            raise ValueError(x)
        return skate.put(x)

    @skate.remote
    class A:
        def f(self, x):
            return x

    for i in range(2000):
        ref = f.remote(i, [skate.put(i)])
        try:
            skate.get(skate.get(ref))
        except ValueError:
            skate.cancel(ref)
        if i % 10 == 0:
            assert skate.get(A.remote().f.remote(i)) == i
    del ref
    gc.collect()
    engine.state("nodes")
    session = engine.session
    tables = session.rows, session.actors, session.live, session.streams, session.names, session.blocked
    assert [len(table) for table in tables] == [0] * 6
    assert session.used == 0 and session.machine.free == session.machine.total


def test_environment_and_gpus_are_in_force_during_the_task_only():
    before = dict(os.environ)

    @skate.remote(num_gpus=1, runtime_env={"env_vars": {"SKATE_TRIAL": "inner"}})
    def look():
        return os.environ["SKATE_TRIAL"], os.environ["CUDA_VISIBLE_DEVICES"], skate.get_gpu_ids()

    @skate.remote(num_gpus=1, runtime_env={"env_vars": {"SKATE_TRIAL": "outer"}})
    def outer():
        inner = skate.get(look.remote())
        return inner, os.environ["SKATE_TRIAL"], os.environ["CUDA_VISIBLE_DEVICES"], skate.available_resources()

    inner, variable, gpu, free = skate.get(outer.remote())
    assert inner == ("inner", "1", [1])
    assert (variable, gpu, free["GPU"], free["CPU"]) == ("outer", "0", 1.0, 3.0)
    assert dict(os.environ) == before
    assert skate.available_resources()["GPU"] == 2.0


def test_fractions_share_a_gpu_and_too_many_share_what_there_is():
    @skate.remote(num_gpus=0.5)
    class Half:
        def gpus(self):
            return skate.get_gpu_ids()

    halves = [Half.remote() for _ in range(5)]
    assert skate.get([half.gpus.remote() for half in halves]) == [[0], [0], [1], [1], [0]]


def test_child_inherits_the_environment_of_its_parent():
    @skate.remote
    def child():
        return os.environ.get("SKATE_TRIAL")

    @skate.remote(runtime_env={"env_vars": {"SKATE_TRIAL": "family"}})
    def parent():
        return skate.get(child.remote())

    assert skate.get(parent.remote()) == "family"
    assert skate.get(child.remote()) is None


def test_working_directory_of_the_job(tmp_path):
    skate.shutdown()
    (tmp_path / "module_of_the_job.py").write_text("answer = 42\n")
    path, place = list(sys.path), os.getcwd()
    skate.init(engine="inline", runtime_env={"working_dir": str(tmp_path)})

    @skate.remote
    def f():
        import module_of_the_job

        return module_of_the_job.answer, os.getcwd()

    assert skate.get(f.remote()) == (42, str(tmp_path))
    skate.shutdown()
    assert (sys.path, os.getcwd()) == (path, place)


def test_references_of_a_closed_session_say_so(engine):
    ref = skate.put(1)
    skate.shutdown()
    with pytest.raises(RuntimeError, match="session has ended"):
        engine.get([ref], None)
    skate.init(engine="inline")

    @skate.remote
    def use(x):
        return x

    for late in (ref, use.remote(ref)):
        with pytest.raises(ObjectLostError, match="session that has ended"):
            skate.get(late)


def test_error_of_a_local_class_keeps_class_and_text():
    class Teapot(Exception):
        pass

    @skate.remote
    def f():
        raise Teapot("short")

    with pytest.raises(Teapot) as info:
        skate.get(f.remote())
    assert isinstance(info.value, RayTaskError)
    text = str(info.value)
    assert "test_inline_tasks.py" in text and "engines/inline" not in text


def test_dynamic_results():
    @skate.remote(num_returns="dynamic")
    def items(n, fail=False):
        yield from range(n)
        if fail:
            raise ValueError("after all")

    assert skate.get(list(skate.get(items.remote(3)))) == [0, 1, 2]
    *good, bad = skate.get(items.remote(2, fail=True))
    assert skate.get(good) == [0, 1]
    with pytest.raises(ValueError, match="after all"):
        skate.get(bad)


def test_many_threads_share_the_engine():
    @skate.remote
    def f(x):
        return skate.get(skate.put(x))

    @skate.remote
    class Sum:
        def __init__(self):
            self.n = 0

        def add(self, x):
            before = self.n
            time.sleep(0)
            self.n = before + x
            return self.n

    total, errors = Sum.remote(), []

    def work():
        try:
            for i in range(100):
                assert skate.get(f.remote(i)) == i
                skate.get(total.add.remote(1))
        except BaseException as error:  # noqa: BLE001  shown by the test
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert skate.get(total.add.remote(0)) == 800
