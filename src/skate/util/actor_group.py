"""`ActorGroup`: several actors of one class that are called together."""

from __future__ import annotations

from typing import Any

from skate.api import kill, remote, wait

__all__ = ["ActorGroup"]


class ActorGroup:
    """Starts `num_actors` actors of a class; ``group.method.remote(...)`` calls all of them.

    Args:
        actor_cls: a plain class.
        num_actors: how many.
        num_cpus_per_actor, num_gpus_per_actor: for each; fractions are allowed.
        resources_per_actor: custom resources for each.
        init_args, init_kwargs: arguments of the constructor.

    Raises ValueError for fewer than one actor, and for negative amounts.
    """

    def __init__(
        self,
        actor_cls: type,
        num_actors: int = 1,
        num_cpus_per_actor: float = 1,
        num_gpus_per_actor: float = 0,
        resources_per_actor: dict[str, float] | None = None,
        init_args: tuple[Any, ...] | None = None,
        init_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if num_actors <= 0:
            raise ValueError(f"num_actors is {num_actors}, and must be 1 at least")
        if num_cpus_per_actor < 0 or num_gpus_per_actor < 0:
            raise ValueError("The CPUs and GPUs of an actor must not be negative.")
        self.num_actors = num_actors
        self.actors: list[Any] = []
        self._arguments = init_args or (), init_kwargs or {}
        made: Any = remote(actor_cls)
        self._class = made.options(
            num_cpus=num_cpus_per_actor, num_gpus=num_gpus_per_actor, resources=resources_per_actor or {}
        )
        self.start()

    def start(self) -> None:
        """Start the actors again after `shutdown`; RuntimeError when they run."""
        if self.actors:
            raise RuntimeError("The actors run already: call shutdown() before.")
        self.add_actors(self.num_actors)

    def add_actors(self, num_actors: int) -> None:
        """Start more."""
        args, kwargs = self._arguments
        self.actors.extend(self._class.remote(*args, **kwargs) for _ in range(num_actors))

    def remove_actors(self, actor_indexes: list[int]) -> None:
        """Let go of those at these places; they end if nobody else has them."""
        self.actors = [actor for index, actor in enumerate(self.actors) if index not in actor_indexes]

    def shutdown(self, patience_s: float = 5) -> None:
        """End the actors: when they have done what they were asked, or after so many seconds; at once if 0."""
        if patience_s > 0 and self.actors:
            done = [actor.__ray_terminate__.remote() for actor in self.actors]
            _, late = wait(done, num_returns=len(done), timeout=patience_s)
            left = [actor for actor, ref in zip(self.actors, done, strict=True) if ref in late]
        else:
            left = self.actors
        for actor in left:
            kill(actor)
        self.actors = []

    def __len__(self) -> int:
        return len(self.actors)

    def __getitem__(self, index: int) -> Any:
        return self.actors[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "actors" not in self.__dict__:
            raise AttributeError(name)
        if not self.actors:
            raise RuntimeError("This ActorGroup was shut down: call start() before.")
        return ActorGroupMethod(self, name)


class ActorGroupMethod:
    """A method of all actors of a group."""

    def __init__(self, group: ActorGroup, name: str) -> None:
        self._group = group
        self._name = name

    def remote(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Call it on each; a list of references, in the order of the actors."""
        return [getattr(actor, self._name).remote(*args, **kwargs) for actor in self._group.actors]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"A group's method cannot be called directly: write group.{self._name}.remote(...).")
