"""Calls from deployment to deployment, streams and the start of an application: Skate beside Ray Serve, in turns.

    python benchmarks/serve_handles.py [--rival PYTHON] [--rounds N] [--out FILE]

`--rival` names a Python that has ``ray[serve]``. Each contestant is a process that runs the same lines with its own
package, and waits for its turn; ratios are of the same round, and their median is shown. `start` is a new process for
each sample: from an initialised session (for Ray: a started cluster with serve's controller in it, which Skate is not
given) to the first answer.
"""

from __future__ import annotations

import os
import statistics

import turns

CHILD = """
import asyncio, json, os, sys, time
package, what = sys.argv[1], sys.argv[2:]
if package == "ray":
    import ray
    from ray import serve
else:
    import skate as ray
    from skate import serve
ray.init(num_cpus=4, **({"include_dashboard": False, "log_to_driver": False} if package == "ray" else {}))


@serve.deployment(max_ongoing_requests=200)
class Inner:
    async def __call__(self, value):
        return value

    async def count(self, number):
        for value in range(number):
            yield value


@serve.deployment(max_ongoing_requests=200)
class Outer:
    def __init__(self, inner):
        self.inner = inner

    async def one_by_one(self, seconds):
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            await self.inner.remote(calls)
            calls += 1
        return calls / (time.perf_counter() - began)

    async def hundred(self, seconds):
        began, calls = time.perf_counter(), 0

        async def work():
            nonlocal calls
            while time.perf_counter() - began < seconds:
                await self.inner.remote(calls)
                calls += 1

        await asyncio.gather(*(work() for _ in range(100)))
        return calls / (time.perf_counter() - began)

    async def stream(self, seconds):
        began, items = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            async for _ in self.inner.options(stream=True).count.remote(1000):
                items += 1
        return items / (time.perf_counter() - began)


if what:
    if package == "ray":
        serve.start()
    began = time.perf_counter()
    handle = serve.run(Inner.bind(), route_prefix=None)
    assert handle.remote(1).result() == 1
    print("FIGURE", time.perf_counter() - began, flush=True)
    serve.shutdown()
    ray.shutdown()
    sys.exit()

handle = serve.run(Outer.bind(Inner.bind()), route_prefix=None)
inner = serve.get_deployment_handle("Inner", "default")
handle.one_by_one.remote(0.3).result()
print("FIGURE 0", flush=True)
for line in sys.stdin:
    case, seconds = line.split()
    seconds = float(seconds)
    if case == "driver":
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            inner.remote(calls).result()
            calls += 1
        rate = calls / (time.perf_counter() - began)
    else:
        rate = getattr(handle, case).remote(seconds).result()
    print("FIGURE", rate, flush=True)
serve.shutdown()
ray.shutdown()
"""
CASES = {
    "one_by_one": "handle call from a deployment to another, one at a time, calls/s",
    "hundred": "the same, 100 in flight, calls/s",
    "driver": "handle call of a driver, one at a time, calls/s",
    "stream": "items of a stream from a deployment to another, items/s",
}


def starts(pythons: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Seconds to the first answer by package."""
    found: dict[str, list[float]] = {package: [] for package in pythons}
    for _ in range(rounds):
        for package, python in pythons.items():
            child = turns.launch(python, package, ["-c", CHILD, package, "start"])
            try:
                found[package].append(child.figure(turns.START))
            finally:
                child.end()
    return found


def ratio(rows: dict[str, list[float]], *, inverse: bool = False) -> str:
    if "ray" not in rows:
        return ""
    pairs = [ours / theirs for ours, theirs in zip(rows["skate"], rows["ray"], strict=True)]
    middle = statistics.median(1 / each if inverse else each for each in pairs)
    return f"{middle:.1f}x"


def main() -> None:
    options = turns.parser(__doc__).parse_args()
    pythons = turns.pythons(options.rival)
    load = os.getloadavg()[0]
    rates = turns.measure(pythons, CHILD, CASES, options.rounds, options.seconds)
    took = starts(pythons, options.rounds)
    lines = [f"serve's handles, medians of {options.rounds} rounds; load of the machine before: {load:.1f}", ""]
    lines += [f"{text:66} {turns.cells(rates[case], '>9,.0f')}  {ratio(rates[case])}" for case, text in CASES.items()]
    lines.append(f"{'serve.run to the first answer, s':66} {turns.cells(took, '>9.3f')}  {ratio(took, inverse=True)}")
    turns.keep(options.out, lines, {"load": load, "rates": rates, "start": took})


if __name__ == "__main__":
    main()
