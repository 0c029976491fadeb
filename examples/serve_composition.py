"""Serve: deployments that call each other, a stream, and an update under load that no request notices."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

from skate import serve
from skate.serve.handle import DeploymentHandle

TEXT = "a replica is an actor and a deployment has many a replica and a handle finds the least busy"


@serve.deployment(num_replicas=2)
class Counter:
    """Counts how often each word of a text comes."""

    def __call__(self, text: str) -> dict[str, int]:
        words = text.split()
        return {word: words.count(word) for word in words}


@serve.deployment
class Ranking:
    """The words of a count, the most frequent first."""

    def __init__(self, order: str = "frequent") -> None:
        self.rare_first = order == "rare"

    async def __call__(self, counts: dict[str, int]) -> list[str]:
        return sorted(counts, key=lambda word: (counts[word] if self.rare_first else -counts[word], word))


@serve.deployment(max_ongoing_requests=50)
class Front:
    """Has the others do the work."""

    def __init__(self, counter: DeploymentHandle, ranking: DeploymentHandle) -> None:
        self.counter, self.ranking = counter, ranking

    async def __call__(self, text: str) -> list[str]:
        # the counts go from Counter to Ranking, and not by way of us
        return await self.ranking.remote(self.counter.remote(text))

    async def ranked(self, text: str) -> AsyncIterator[str]:
        for word in await self(text):
            yield word
            await asyncio.sleep(0)


def application(order: str) -> serve.Application:
    return Front.bind(Counter.bind(), Ranking.bind(order))


def main() -> None:
    handle = serve.run(application("frequent"), name="words", route_prefix=None)
    print("the most frequent word:", handle.remote(TEXT).result()[0])
    print("streamed:", *list(handle.options(stream=True).ranked.remote(TEXT))[:3])

    first: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            first.append(handle.remote(TEXT).result(timeout_s=30)[0])

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    serve.run(application("rare"), name="words", route_prefix=None)  # while they ask
    while first[-1] == "a":
        time.sleep(0.01)
    done.set()
    for thread in asking:
        thread.join()
    assert set(first) == {"a", "actor"}, "an answer of the old version or of the new, and nothing else"
    for name, deployment in serve.status().applications["words"].deployments.items():
        print(f"{name}: {deployment.status.value}, {deployment.replica_states}")
    serve.shutdown()
    print("serve_composition.py: updated while requests came, and each had its answer")


if __name__ == "__main__":
    main()
