"""`multiprocessing.Pool` on actors: a program that uses the standard one changes its import, and nothing else."""

from multiprocessing import JoinableQueue, TimeoutError

from skate.util.multiprocessing.pool import AsyncResult, Pool

__all__ = ["AsyncResult", "JoinableQueue", "Pool", "TimeoutError"]
