"""How lost results are made again: the calls that made them are remembered, and run once more.

A call is remembered while one of its stored results is alive, or another remembered call takes one of its results: so
that of a chain of results only the last need be kept. Small arguments are kept with it. What came from `put` or from
a stream cannot be made again, nor can what a task with ``max_retries=0`` made, or a method with ``max_task_retries=0``:
a lost one of these is an error that says so.
"""

from __future__ import annotations

from typing import Any

from skate.core.spec import CallOptions, TaskOptions
from skate.engines.local import errors
from skate.engines.local.arena import Arena
from skate.engines.local.messages import Stored, TaskSpec
from skate.engines.local.rows import FAILED, METHOD, PENDING, PUT, READY, Row
from skate.engines.local.store import Store

MOST = 100_000
"""Calls that are remembered; beyond that those of the oldest results are forgotten."""


class Recipe:
    """A call that ended well, and can be run again."""

    __slots__ = ("alive", "attempt", "inputs", "kept", "options", "retries", "spec", "uses")

    def __init__(self, spec: TaskSpec, options: TaskOptions | CallOptions, retries: int, attempt: int) -> None:
        self.spec = spec
        self.options = options
        self.retries = retries
        """How many more runs than one it may have; -1: any number."""
        self.attempt = attempt
        self.alive: set[int] = set()
        """Its results that are stored and counted by somebody."""
        self.uses = 0
        """Remembered calls that take one of its results."""
        self.inputs: list[Recipe] = []
        """Whose results it takes."""
        self.kept: list[int] = []
        """Keys of small inputs, held for it."""


class Lineage(Store):
    """The table's memory of how its values came to be."""

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.recipes: dict[int, Recipe] = {}
        """By task, oldest first."""
        self.remaking: set[int] = set()
        """Tasks that run again."""
        self.forgotten = False
        """Whether some had to go for want of room."""

    def enqueue(self, row: Row) -> None:
        """Queue a call that needs a worker."""
        raise NotImplementedError

    def call_again(self, row: Row, spec: TaskSpec) -> None:
        """Make a call of an actor's method once more."""
        raise NotImplementedError

    def _ready(self, row: Row) -> None:
        raise NotImplementedError

    def pardoned(self, row: Row) -> int:
        """Attempts that do not count."""
        raise NotImplementedError

    # ----------------------------------------------------------------- remember

    def remember(self, row: Row, spec: TaskSpec, values: list[Any], retries: int) -> None:
        """A call with these values has just ended well; its inputs are still alive."""
        stored = {spec.task + i for i, value in enumerate(values) if type(value) is Stored}
        if not stored or retries == 0:
            return
        attempt = row.attempt - self.pardoned(row)
        recipe = self.recipes.get(spec.task)
        if recipe is None:
            recipe = self.recipes[spec.task] = Recipe(spec, row.options, retries, attempt)
            for key in (*spec.deps, *spec.refs):
                self._remember_input(recipe, key)
            if len(self.recipes) > MOST:
                self.forgotten = True
                self._forget_recipe(next(iter(self.recipes)))
        recipe.attempt = attempt
        recipe.alive |= {key for key in stored if key in self.rows}
        if not recipe.alive:
            self._forget_unused(recipe)

    def _remember_input(self, recipe: Recipe, key: int) -> None:
        row = self.rows.get(key)
        if row is None:
            return
        source = self.recipes.get(_task_of(key, row))
        if source is not None:
            source.uses += 1
            recipe.inputs.append(source)
        if type(row.value) is bytes and row.actor is None:
            self.hold(key)
            recipe.kept.append(key)

    def free(self, key: int, row: Row, value: Stored) -> None:
        """A row has lost its stored value: nobody needs it any more."""
        super().free(key, row, value)
        if self.recipes:
            recipe = self.recipes.get(_task_of(key, row))
            if recipe is not None:
                recipe.alive.discard(key)
                self._forget_unused(recipe)

    def _forget_unused(self, recipe: Recipe) -> None:
        unused = [recipe]
        while unused:
            recipe = unused.pop()
            if recipe.alive or recipe.uses or self.recipes.get(recipe.spec.task) is not recipe:
                continue
            del self.recipes[recipe.spec.task]
            unused.extend(self._let_go(recipe))

    def _forget_recipe(self, task: int) -> None:
        for source in self._let_go(self.recipes.pop(task)):
            self._forget_unused(source)

    def _let_go(self, recipe: Recipe) -> list[Recipe]:
        inputs, recipe.inputs = recipe.inputs, []
        kept, recipe.kept = recipe.kept, []
        for source in inputs:
            source.uses -= 1
        for key in kept:
            self.release(key)
        return inputs

    # -------------------------------------------------------------------- remake

    def lose(self, key: int, removed: bool = False) -> None:
        """The value of a ready object is gone: have it made again, or fail it. Not one that somebody views.

        `removed`: with its node, and so with the process that made it.
        """
        row = self.rows.get(key)
        if row is None or row.state != READY or type(row.value) is not Stored:
            return
        if row.value.offset >= 0 and key in self.views:  # who views a file has found it gone, or will
            return
        task = _task_of(key, row)
        recipe = self.recipes.get(task)
        value, row.value = row.value, None
        super().free(key, row, value)
        refs, row.refs = row.refs, ()
        reason, plan = self._plan(recipe) if recipe is not None else (self._why_unknown(row), [])
        if recipe is not None:
            recipe.alive.discard(key)
        if reason:
            row.state = FAILED
            row.value = errors.owner_died(key) if removed and row.maker == PUT else errors.lost(key, reason)
            self.failures += 1
            if recipe is not None:
                self._forget_unused(recipe)
        else:
            row.state = PENDING
            self._remake(plan)
        for inner in refs:
            self.release(inner)

    def _why_unknown(self, row: Row) -> str:
        if row.maker == PUT:
            return "OBJECT_UNRECONSTRUCTABLE_PUT"
        if self.forgotten and row.maker != METHOD:
            return "OBJECT_UNRECONSTRUCTABLE_LINEAGE_EVICTED"
        return "OBJECT_UNRECONSTRUCTABLE_RETRIES_DISABLED"

    def _plan(self, last: Recipe) -> tuple[str, list[tuple[Recipe, list[int]]]]:
        """The calls that must run again, each with those of its results that are gone; or why they cannot."""
        plan: dict[int, tuple[Recipe, list[int]]] = {last.spec.task: (last, [])}
        todo = [last]
        while todo:
            recipe = todo.pop()
            spec = recipe.spec
            if spec.task in self.remaking:
                continue
            if 0 <= recipe.retries <= recipe.attempt:
                return "OBJECT_UNRECONSTRUCTABLE_MAX_ATTEMPTS_EXCEEDED", []
            if type(spec.args) is Stored and spec.args.key not in self.rows:
                return "OBJECT_UNRECONSTRUCTABLE_PUT", []
            for key in (*spec.deps, *spec.refs):
                if key in self.rows:
                    continue
                source = next((r for r in recipe.inputs if 0 <= key - r.spec.task < max(1, r.spec.returns)), None)
                if source is None:
                    known = self.recipes.get(spec.task) is recipe
                    return f"OBJECT_UNRECONSTRUCTABLE_{'PUT' if known else 'LINEAGE_EVICTED'}", []
                if source.spec.task not in plan:
                    plan[source.spec.task] = (source, [])
                    todo.append(source)
                plan[source.spec.task][1].append(key)
        return "", list(plan.values())

    def _remake(self, plan: list[tuple[Recipe, list[int]]]) -> None:
        again = []
        for recipe, gone in plan:
            task = recipe.spec.task
            for key in gone:
                self.rows[key] = Row(count=0, maker=task if key != task else 0)
            if task not in self.remaking:
                self.remaking.add(task)
                # A record of its own: the first result's may be ready, or gone.
                again.append(Row(count=0, spec=recipe.spec, options=recipe.options, attempt=recipe.attempt + 1))
        for row in again:
            spec = row.spec
            if spec is None:
                continue
            if spec.actor:
                self.call_again(row, spec)
                continue
            self.pin(row, spec, self._ready)
            if not row.missing:
                self._ready(row)

    def ended_again(self, task: int) -> None:
        """A call that was run again has ended, however."""
        self.remaking.discard(task)
        recipe = self.recipes.get(task)
        if recipe is not None:
            self._forget_unused(recipe)


def _task_of(key: int, row: Row) -> int:
    """The task that makes an object."""
    return row.maker if row.maker > 0 else key
