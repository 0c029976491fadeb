"""Dask on actors' engine: graphs of Dask run as tasks, by `ray_dask_get` or after `enable_dask_on_ray()`."""

from skate.util.dask.scheduler import disable_dask_on_ray, enable_dask_on_ray, ray_dask_get, ray_dask_get_sync

__all__ = ["disable_dask_on_ray", "enable_dask_on_ray", "ray_dask_get", "ray_dask_get_sync"]
