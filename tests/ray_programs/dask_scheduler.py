"""Dask collections computed by Ray tasks (ray.util.dask)."""

import dask
import dask.array as da
import ray
from ray.util.dask import disable_dask_on_ray, enable_dask_on_ray, ray_dask_get

ray.init(num_cpus=2)
array = da.arange(2000, chunks=250).reshape(50, 40)
first = int((array @ array.T).trace().compute(scheduler=ray_dask_get))
enable_dask_on_ray()
parts = [dask.delayed(pow)(number, 2) for number in range(20)]
second = dask.delayed(sum)(parts).compute()
disable_dask_on_ray()
print("result:", first, second)
ray.shutdown()
