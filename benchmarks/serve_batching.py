"""`@serve.batch`: what it adds to a lone call, and how full batches are, Skate beside Ray Serve, in turns.

    python benchmarks/serve_batching.py [--rival PYTHON] [--rounds N] [--out FILE]

`--rival` names a Python that has ``ray[serve]``. Each contestant is a process that runs the same lines with its own
package, and waits for its turn. All calls are made within one replica, so that nothing but the batching is measured.
"""

from __future__ import annotations

import os

import turns

CHILD = '''
import asyncio, sys, time
package = sys.argv[1]
if package == "ray":
    import ray
    from ray import serve
else:
    import skate as ray
    from skate import serve
ray.init(num_cpus=4, **({"include_dashboard": False, "log_to_driver": False} if package == "ray" else {}))
WAIT = 0.01


@serve.deployment(max_ongoing_requests=1000)
class Model:
    @serve.batch(max_batch_size=8, batch_wait_timeout_s=WAIT)
    async def lone_batch(self, items):
        return items

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def slow_batch(self, items):
        await asyncio.sleep(0.03)
        self.sizes.append(len(items))
        return items

    @serve.batch(max_batch_size=100, batch_wait_timeout_s=0)
    async def quick_batch(self, items):
        return items

    async def lone(self, seconds):
        """Milliseconds at the median that a lone call takes beyond its wait."""
        took, until = [], time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            await self.lone_batch(1)
            took.append(time.perf_counter() - began - WAIT)
            await asyncio.sleep(0.001)
        return sorted(took)[len(took) // 2] * 1000

    async def steady(self, seconds, what):
        """Calls come one each millisecond, whatever becomes of those before."""
        self.sizes, waits, tasks = [], [], []

        async def one():
            began = time.perf_counter()
            await self.slow_batch(1)
            waits.append(time.perf_counter() - began)

        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            tasks.append(asyncio.ensure_future(one()))
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
        return sum(self.sizes) / len(self.sizes) if what == "size" else sorted(waits)[len(waits) // 2] * 1000

    async def steady_size(self, seconds):
        return await self.steady(seconds, "size")

    async def steady_wait(self, seconds):
        return await self.steady(seconds, "wait")

    async def calls(self, seconds):
        """Calls a second of a hundred callers of a function that does nothing."""
        calls, until = 0, time.perf_counter() + seconds

        async def caller():
            nonlocal calls
            while time.perf_counter() < until:
                await self.quick_batch(1)
                calls += 1

        await asyncio.gather(*(caller() for _ in range(100)))
        return calls / seconds


serve.start(proxy_location="Disabled")
handle = serve.run(Model.bind(), route_prefix=None)
handle.calls.remote(0.1).result()
print("FIGURE 0", flush=True)
for line in sys.stdin:
    case, seconds = line.split()
    print("FIGURE", getattr(handle, case).remote(float(seconds)).result(), flush=True)
serve.shutdown()
ray.shutdown()
'''
CASES = {
    "lone": "beyond its wait of 10 ms a lone call takes, ms",
    "steady_size": "a call each ms, function of 30 ms, batches of 32 at most: members of a batch",
    "steady_wait": "the same: a call takes, ms",
    "calls": "100 callers, function that does nothing: calls/s",
}


def main() -> None:
    options = turns.parser(__doc__).parse_args()
    load = os.getloadavg()[0]
    found = turns.measure(turns.pythons(options.rival), CHILD, CASES, options.rounds, options.seconds)
    lines = [f"serve's batches, medians of {options.rounds} rounds; load of the machine before: {load:.1f}", ""]
    lines += [f"{text:78} {turns.cells(found[case], '>10,.2f')}" for case, text in CASES.items()]
    turns.keep(options.out, lines, {"load": load, "found": found})


if __name__ == "__main__":
    main()
