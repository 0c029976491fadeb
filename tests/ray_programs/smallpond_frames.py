"""A data frame of smallpond, which DuckDB works on in tasks."""

import os

import pandas as pd
import smallpond

pd.DataFrame({"key": [number % 4 for number in range(1000)], "value": range(1000)}).to_parquet("data.parquet")
session = smallpond.init(data_root=os.path.abspath("root"), num_executors=0)
frame = session.read_parquet(os.path.abspath("data.parquet")).repartition(3, hash_by="key")
sums = session.partial_sql("select key, sum(value) as total from {0} group by key", frame).to_pandas()
print("result:", dict(sorted(zip(sums["key"].tolist(), map(int, sums["total"]), strict=True))))
