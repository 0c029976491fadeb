"""Secrets of the configuration, taken out of whatever is written down: logs, spans, reports of errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from skate.configuration import HIDDEN, Config, flat, is_secret, masked

SHORTEST = 6
"""Letters of what is taken out: shorter ones are parts of words."""
FEW = 40


class Scrubber:
    """Takes the secrets of a configuration out of texts."""

    def __init__(self, config: Config) -> None:
        values = {value for value in _secrets(config) if len(value) >= SHORTEST}
        forms = {form for value in values for form in (value, quote(value, safe=""), json.dumps(value)[1:-1])}
        longest_first = sorted(forms, key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, longest_first))) if forms else None
        # an expression of many takes long wherever none is: then how they begin is looked for first
        self._heads = frozenset(form[:SHORTEST] for form in forms) if len(forms) > FEW else frozenset()

    def text(self, text: str) -> str:
        """A text without secrets."""
        if self._found is None:
            return text
        heads = self._heads
        if heads and not any(text[at : at + SHORTEST] in heads for at in range(len(text) - SHORTEST + 1)):
            return text
        return self._found.sub(HIDDEN, text)

    def tree(self, value: Any, name: str = "") -> Any:
        """Nested tables and lists without secrets, and without what is called so."""
        if isinstance(value, str):
            return self.text(masked(name, value))
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.tree(each, str(key)) for key, each in value.items()}
        return [self.tree(each, name) for each in value] if isinstance(value, list | tuple) else value


def _secrets(config: Config) -> Iterator[str]:
    for name, value in flat(msgspec.to_builtins(config)):
        yield from _logins(name)
        yield from _in(name, value)


def _in(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if is_secret(name):
            yield value
        yield from _logins(value)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _in(f"{name}.{key}", each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _in(name, each)


def _logins(text: str) -> Iterator[str]:
    """Passwords in URLs."""
    for password in re.findall(r"://[^\s:@/]*:([^\s@]+)@", text):
        yield password
        yield unquote(password)
