"""Count words with map and reduce: each mapper splits its counts over the reducers.

The text is the reference that `help()` shows, some 700 KB that every Python brings along.
A mapper returns one object per reducer (`num_returns=REDUCERS`), so a reducer receives only its
own share, and the counts go from task to task without passing through this program.
"""

from __future__ import annotations

import re
from collections import Counter
from pydoc_data.topics import topics
from zlib import crc32

import skate as ray

REDUCERS = 3
MAPPERS = 8
WORD = re.compile(r"[a-z]+")


@ray.remote(num_returns=REDUCERS)
def count(texts: list[str]) -> list[Counter[str]]:
    """Count the words of some texts; a word's checksum says which reducer gets it."""
    shares: list[Counter[str]] = [Counter() for _ in range(REDUCERS)]
    for text in texts:
        for word in WORD.findall(text.lower()):
            shares[crc32(word.encode()) % REDUCERS][word] += 1
    return shares


@ray.remote
def merge(*shares: Counter[str]) -> Counter[str]:
    """Add up one reducer's share of every mapper."""
    return sum(shares, start=Counter())


def main() -> None:
    ray.init()
    texts = [topics[name] for name in sorted(topics)]
    mapped = [count.remote(texts[at::MAPPERS]) for at in range(MAPPERS)]
    reduced = [merge.remote(*shares) for shares in zip(*mapped, strict=True)]
    totals: Counter[str] = Counter()
    for share in ray.get(reduced):
        assert not totals.keys() & share.keys(), "two reducers counted the same word"
        totals.update(share)

    assert totals == Counter(word for text in texts for word in WORD.findall(text.lower()))
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    for word, uses in ranked[:5]:
        print(f"{word:>8} {uses:6,}")
    print(f"word_count: {totals.total():,} words, {len(totals):,} different ones, as counted alone")
    ray.shutdown()


if __name__ == "__main__":
    main()
