"""A pandas groupby applied by swifter, whose chunks of groups are Ray tasks."""

import numpy as np
import pandas as pd
import ray
import swifter

ray.init(num_cpus=2)
assert swifter is not None
table = pd.DataFrame({"key": np.arange(4000) % 40, "value": np.arange(4000) * 0.5})


def spread(group):
    return group["value"].max() - group["value"].min()


found = table.swifter.progress_bar(False).groupby("key").apply(spread)
expected = table.groupby("key").apply(spread, include_groups=False)
assert np.allclose(np.sort(found.to_numpy(dtype=float).ravel()), np.sort(expected.to_numpy()))
print("result:", found.shape, float(np.asarray(found, dtype=float).sum()))
ray.shutdown()
