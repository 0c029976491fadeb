"""Gradient boosted trees that two actors train together (lightgbm-ray)."""

import numpy as np
import ray
from lightgbm_ray import RayDMatrix, RayParams, predict, train

ray.init(num_cpus=2)
rng = np.random.default_rng(0)
x = rng.normal(size=(2000, 5))
y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int)
results = {}
params = RayParams(num_actors=2, cpus_per_actor=1, allow_less_than_two_cpus=True)
model = train(
    {"objective": "binary", "metric": ["binary_logloss", "binary_error"], "num_leaves": 15, "verbose": -1},
    RayDMatrix(x, y),
    num_boost_round=20,
    evals_result=results,
    valid_sets=[RayDMatrix(x, y)],
    valid_names=["train"],
    verbose_eval=False,
    ray_params=params,
)
guess = predict(
    model, RayDMatrix(x), ray_params=RayParams(num_actors=2, cpus_per_actor=1, allow_less_than_two_cpus=True)
)
error = results["train"]["binary_error"]
print("result:", guess.shape, bool(((guess > 0.5) == y).mean() > 0.9), len(error), error[-1] < error[0])
ray.shutdown()
