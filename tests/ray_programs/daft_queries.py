"""Daft's Ray runner: a filter, a join, a grouping, a Python function."""

import daft
import ray

ray.init(num_cpus=2)
daft.set_runner_ray() if hasattr(daft, "set_runner_ray") else daft.context.set_runner_ray()


@daft.udf(return_dtype=daft.DataType.int64())
def double(numbers):
    return [2 * number for number in numbers.to_pylist()]


items = daft.from_pydict({"key": [number % 5 for number in range(100)], "value": list(range(100))})
names = daft.from_pydict({"key": [0, 1, 2, 3], "name": ["zero", "one", "two", "three"]})
joined = items.where(daft.col("value") > 9).join(names, on="key")
grouped = joined.with_column("twice", double(daft.col("value"))).groupby("name").agg(daft.col("twice").sum())
print("result:", sorted(zip(*grouped.to_pydict().values(), strict=True)))
ray.shutdown()
