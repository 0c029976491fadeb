"""What workers print: every line, in order, with its origin; and no trouble when it cannot be shown."""

from __future__ import annotations

import re

import pytest
from programs import output_of, program

ORIGIN = re.compile(r"^\((\w+) pid=\d+\) ?(.*)$")


def lines_of(out: str) -> list[str]:
    """What follows the origin, of every line that has one."""
    return [found[2] for found in map(ORIGIN.match, out.splitlines()) if found]


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_every_line_arrives_in_order_with_its_origin(count: int) -> None:
    text = """
    @ray.remote
    def talk(count):
        for i in range(count):
            print("line", i)

    ray.init(num_cpus=2)
    ray.get(talk.remote(int(sys.argv[1])))
    """
    out = output_of(text, str(count))
    assert all(line.startswith("(talk pid=") for line in out.splitlines())
    assert lines_of(out) == [f"line {i}" for i in range(count)]


def test_two_talkers_never_mix_within_a_line_or_lose_their_order() -> None:
    text = """
    @ray.remote
    class Talker:
        def talk(self, name):
            for i in range(3000):
                print(name, i, "x" * 50)

    ray.init(num_cpus=2)
    talkers = [Talker.remote() for _ in range(3)]
    ray.get([talker.talk.remote(name) for talker, name in zip(talkers, "abc")])
    """
    found = lines_of(output_of(text))
    for name in "abc":
        assert [line for line in found if line[0] == name] == [f"{name} {i} {'x' * 50}" for i in range(3000)]
    assert len(found) == 9000


def test_last_line_without_an_end_and_other_oddities_arrive() -> None:
    text = """
    import subprocess

    @ray.remote
    def odd():
        print()
        print("tab\\tand é and \\u2603")
        os.write(1, b"binary \\xff\\xfe\\x00 end\\n")
        print("x" * 3_000_000)
        subprocess.run(["echo", "from a child"])
        print("to stderr", file=sys.stderr)
        sys.stdout.write("no end")

    ray.init(num_cpus=1)
    ray.get(odd.remote())
    """
    with program(text, env={"PYTHONIOENCODING": "utf-8"}) as started:
        status, out, err = started.end()
    found = lines_of(out)
    assert status == 0, err
    assert found[:2] == ["", "tab\tand é and \u2603"]
    assert found[2].startswith("binary \\xff\\xfe") and found[2].endswith(" end")
    assert sum(line.count("x") for line in found[3:-2]) == 3_000_000
    assert found[-2:] == ["from a child", "no end"]
    assert "to stderr" in err and "to stderr" not in out


def test_lines_of_a_worker_that_dies_arrive_and_are_quoted_in_its_error() -> None:
    text = """
    @ray.remote(max_retries=0)
    def doomed():
        for i in range(500):
            print("before", i)
        print("last words", flush=True)
        os.kill(os.getpid(), 9)

    ray.init(num_cpus=1)
    try:
        ray.get(doomed.remote())
    except ray.exceptions.WorkerCrashedError as error:
        print("last words" in str(error))
    """
    out = output_of(text)
    assert out.splitlines()[-1] == "True"
    assert lines_of(out) == [f"before {i}" for i in range(500)] + ["last words"]


def test_lines_printed_just_before_the_end_of_the_script_arrive() -> None:
    text = """
    import atexit

    @ray.remote
    class Last:
        def __init__(self):
            atexit.register(print, "at exit")

        def speak(self):
            print("spoken")

    ray.init(num_cpus=1)
    last = Last.remote()
    ray.get(last.speak.remote())
    """
    for _ in range(5):
        assert lines_of(output_of(text))[0] == "spoken"


def test_silenced_workers_still_quote_their_last_words() -> None:
    text = """
    @ray.remote(max_retries=0)
    def doomed():
        for i in range(20000):
            print("noise", i)
        os._exit(1)

    ray.init(num_cpus=1, log_to_driver=False)
    try:
        ray.get(doomed.remote())
    except ray.exceptions.WorkerCrashedError as error:
        print(str(error).splitlines()[-1])
    """
    assert output_of(text).splitlines() == ["  noise 19999"]


def test_driver_whose_output_takes_only_ascii_still_gets_its_results() -> None:
    text = """
    @ray.remote
    def speak():
        print("caf\\u00e9 \\u2603")
        return 1

    ray.init(num_cpus=1)
    for _ in range(3):
        print(ray.get(speak.remote(), timeout=60))
        time.sleep(0.1)
    """
    out = output_of(text, env={"PYTHONIOENCODING": "ascii:strict"})
    assert [line for line in out.splitlines() if line == "1"] == ["1"] * 3
    assert lines_of(out) == ["caf\\xe9 \\u2603"] * 3


@pytest.mark.parametrize("target", ["/dev/full", "closed pipe", "closed", "None", "odd object"])
def test_driver_whose_output_cannot_be_written_still_gets_its_results(target: str) -> None:
    text = """
    @ray.remote
    def speak(i):
        print("hello", i)
        print("hello", i, file=sys.stderr)
        return i

    target = sys.argv[1]
    result = os.fdopen(os.dup(1), "w")

    class Odd:
        def write(self, text):
            pass

    def broken():
        reading, writing = os.pipe()
        os.close(reading)
        return open(writing, "w")

    def closed():
        file = open(os.devnull, "w")
        file.close()
        return file

    places = {"/dev/full": lambda: open("/dev/full", "w"), "closed pipe": broken, "closed": closed}
    sys.stdout = sys.stderr = {**places, "None": lambda: None, "odd object": Odd}[target]()
    ray.init(num_cpus=1)
    for i in range(3):
        assert ray.get(speak.remote(i), timeout=60) == i
        time.sleep(0.2)
    late = speak.remote(9)
    for _ in range(100):
        time.sleep(0.5)
        if ray.wait([late], timeout=0)[0]:
            break
    else:
        raise AssertionError("nobody pumps while the driver computes")
    ray.shutdown()
    print("well", file=result, flush=True)
    os._exit(0)
    """
    assert output_of(text, target).strip() == "well"


@pytest.mark.parametrize("closed", [(1, 2), (0, 1, 2), (0,), (2,)])
def test_driver_started_without_standard_streams_works(closed: tuple[int, ...], tmp_path) -> None:
    answer = tmp_path / "answer"
    text = f"""
    @ray.remote
    def speak(i):
        print("hello", i)
        print("hello", i, file=sys.stderr)
        return i

    ray.init(num_cpus=2)
    value = ray.get([speak.remote(i) for i in range(20)], timeout=60)
    open({str(answer)!r}, "w").write(str(sum(value)))
    """
    import os
    import signal

    def close() -> None:
        for number in closed:
            os.close(number)

    with program(text, preexec_fn=close, stdout=None, stderr=None) as started:
        assert started.process.wait(90) in (0, 120, -signal.SIGPIPE)
    assert answer.read_text() == str(sum(range(20)))


def test_slow_reader_of_the_drivers_output_loses_nothing() -> None:
    text = """
    @ray.remote
    def talk():
        for i in range(20000):
            print("line", i)

    ray.init(num_cpus=1)
    ray.get(talk.remote())
    """
    import time

    with program(text) as started:
        found = []
        for line in started.process.stdout:
            if len(found) % 2000 == 0:
                time.sleep(0.05)
            found.append(line)
        assert started.process.wait(90) == 0
    assert lines_of("".join(found)) == [f"line {i}" for i in range(20000)]
