"""Graphs of Dask run as tasks here, by `ray_dask_get` or after `enable_dask_on_ray()`. It needs Dask."""

try:
    from skate.util.dask.scheduler import disable_dask_on_ray, enable_dask_on_ray, ray_dask_get, ray_dask_get_sync
except ModuleNotFoundError as error:
    text = f"skate.util.dask needs Dask: pip install 'skate-ray[dask]' ({error})"
    raise ModuleNotFoundError(text, name=error.name) from error

__all__ = ["disable_dask_on_ray", "enable_dask_on_ray", "ray_dask_get", "ray_dask_get_sync"]
