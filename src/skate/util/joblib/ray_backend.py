"""`RayBackend`: joblib's batches of calls as calls of a pool."""

from __future__ import annotations

from typing import Any

from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase, PoolManagerMixin

from skate.api import cluster_resources, init, is_initialized
from skate.util.multiprocessing.pool import Pool

__all__ = ["RayBackend"]


class RayBackend(AutoBatchingMixin, PoolManagerMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs joblib's batches in actors, as many as the session has CPUs with ``n_jobs=-1``.

    Args:
        ray_remote_args: options of the actors, also as an argument of ``parallel_backend``; each takes a CPU if they do
            not say.
    """

    supports_retrieve_callback = True
    supports_sharedmem = False

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        ray_remote_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **kwargs)
        self.ray_remote_args = ray_remote_args
        self._pool: Pool | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many processes ``n_jobs`` stands for; -1: all CPUs, -2: all but one."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        if not is_initialized():
            init()
        cpus = int(cluster_resources().get("CPU", 1))
        return max(1, cpus + 1 + n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
        **memmapping: Any,
    ) -> int:
        """Start the pool; returns how many processes it has."""
        count = self.effective_n_jobs(n_jobs)
        self._pool = Pool(count, ray_remote_args=ray_remote_args or self.ray_remote_args)
        self.parallel = parallel
        return count

    def terminate(self) -> None:
        """End the pool."""
        super().terminate()
        self.reset_batch_stats()
