"""Where a call may run: the strategies of the public API as engines know them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class LabelTest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a selector asks of one label of a node."""

    name: str
    values: tuple[str, ...] = ()
    """The values that pass; empty: any value does, if there is the label."""
    negated: bool = False
    """Nodes that pass the rest of the test are those that fail; a node without the label passes."""

    def passes(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is meant."""
        value = labels.get(self.name)
        return (value is not None and (not self.values or value in self.values)) is not self.negated


Selector = tuple[LabelTest, ...]
"""Tests that a node must all pass."""


class Where(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A wish about the place of a call. The default: pack onto the first nodes, and spread once they are half full."""

    spread: bool = False
    """One node after the other."""
    node: str = ""
    """The node of this id, in hex."""
    soft: bool = False
    """Elsewhere when that `node` is gone, or cannot run it."""
    spill: bool = False
    """With `soft`: also elsewhere while the node has no room."""
    now: bool = False
    """With `node` and not `soft`: fail when the node has no room at the moment."""
    group: int = 0
    """Inside this placement group."""
    bundle: int = -1
    """In this bundle of it; -1: in any."""
    capture: bool = False
    """What the call starts belongs into the group too."""
    alone: bool = False
    """Not in the group of who starts it, whatever that captures."""
    selectors: tuple[Selector, ...] = ()
    """On nodes that pass the first of these; while none of those has room, the second; and so on."""
    liked: Selector = ()
    """Rather on nodes that pass this."""


ALONE = Where(alone=True)


def inherits(where: Where | None) -> bool:
    """Whether a call goes into the group of a caller that captures what it starts: it has no strategy of its own."""
    return where is None or not (where.alone or where.spread or where.node or where.group)


def captured(where: Where | None) -> Where | None:
    """Where what a call starts is to run, if its placement group captures that."""
    if where is None or not where.group or not where.capture:
        return None
    return Where(group=where.group, capture=True)


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels passes all tests."""
    return all(test.passes(labels) for test in selector)


def allows(where: Where, node: str, labels: Mapping[str, str]) -> bool:
    """Whether a call may run on the only node there is; `node` is its id in hex."""
    if where.node and not where.soft and where.node != node:
        return False
    return not where.selectors or any(matches(selector, labels) for selector in where.selectors)


def parse_selector(given: Mapping[str, str | None] | None) -> Selector:
    """A ``label_selector`` whose words were checked: ``"a"``, ``"!a"``, ``"in(a, b)"``, ``"!in(a, b)"``; None: any."""
    return tuple(_parse(name, text) for name, text in sorted((given or {}).items()))


def _parse(name: str, text: str | None) -> LabelTest:
    if text is None:
        return LabelTest(name)
    negated = text.startswith("!")
    word = text.removeprefix("!")
    if word.startswith("in("):
        return LabelTest(name, tuple(part.strip() for part in word[3:-1].split(",")), negated)
    return LabelTest(name, (word,), negated)


def describe(where: Where) -> str:
    """A wish in words, for messages: ``on node 00ab...``."""
    parts = []
    if where.group:
        parts.append("in a placement group" if where.bundle < 0 else f"in bundle {where.bundle} of a placement group")
    if where.node:
        parts.append(f"on node {where.node}")
    if where.selectors:
        parts.append("on a node with " + " or ".join(", ".join(map(_say, tests)) for tests in where.selectors))
    return ", ".join(parts)


def _say(test: LabelTest) -> str:
    if not test.values:
        return f"{'no ' if test.negated else ''}label {test.name!r}"
    values = " or ".join(map(repr, test.values))
    return f"label {test.name!r} {'not ' if test.negated else ''}{values}"
