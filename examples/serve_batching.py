"""Requests that arrive one by one are computed in batches, and each model is loaded once.

A model for embeddings takes as long for sixteen texts as for one. `serve.batch` gathers the texts of callers who know
nothing of each other; `serve.multiplexed` keeps the models of two languages in two replicas, and requests find them.
"""

from __future__ import annotations

import asyncio

import skate as ray
from skate import serve

SECONDS_FOR_A_BATCH = 0.02
TEXTS = [f"text number {number}" for number in range(200)]


class Model:
    """Stands for a network on an accelerator."""

    def __init__(self, language: str) -> None:
        self.language = language

    async def embed(self, texts: list[str]) -> list[tuple[str, int]]:
        """One vector for each text, for the price of one text."""
        await asyncio.sleep(SECONDS_FOR_A_BATCH)
        return [(self.language, len(text)) for text in texts]


@serve.deployment(num_replicas=2, max_ongoing_requests=64)
class Embedder:
    """Embeds texts of several languages."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.loads: list[str] = []

    @serve.multiplexed(max_num_models_per_replica=1)
    async def model(self, language: str) -> Model:
        """The model of a language."""
        self.loads.append(language)
        return Model(language)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def embed(self, texts: list[str]) -> list[tuple[str, int]]:
        """All texts are of one language: requests for different models are never in one batch."""
        self.sizes.append(len(texts))
        model = await self.model(serve.get_multiplexed_model_id())
        return await model.embed(texts)

    async def __call__(self, text: str) -> tuple[str, int]:
        """A caller has one text."""
        vector: tuple[str, int] = await self.embed(text)
        return vector

    def report(self) -> tuple[list[int], list[str]]:
        """The sizes of all batches, and the models that were loaded."""
        return self.sizes, self.loads


def main() -> None:
    """Embed texts of two languages, and see how they were batched."""
    handle = serve.run(Embedder.bind(), route_prefix=None)
    languages = ("en", "fr")
    for language in languages:  # each replica takes up one of the models
        handle.options(multiplexed_model_id=language).remote("warm up").result(timeout_s=30)
    responses = [
        handle.options(multiplexed_model_id=languages[number % 2]).remote(text) for number, text in enumerate(TEXTS)
    ]
    vectors = [response.result(timeout_s=30) for response in responses]
    assert vectors == [(languages[number % 2], len(text)) for number, text in enumerate(TEXTS)]

    sizes, loads = [], []
    for language in languages:  # the replica with this language's model
        report = handle.options(multiplexed_model_id=language, method_name="report").remote().result(timeout_s=30)
        sizes += report[0]
        loads += report[1]
    serve.shutdown()
    ray.shutdown()
    assert len(sizes) < len(TEXTS) / 4, "nothing was batched"
    print(f"models loaded: {', '.join(sorted(loads))}; {len(sizes)} batches")
    print(f"serve_batching: {len(TEXTS)} texts in batches of up to {max(sizes)}")


if __name__ == "__main__":
    main()
