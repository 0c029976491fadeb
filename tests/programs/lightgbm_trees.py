"""Boosted trees trained by LightGBM on Ray actors (lightgbm-ray)."""

import numpy as np
from lightgbm_ray import RayDMatrix, RayParams, predict, train

random = np.random.default_rng(0)
X = random.normal(size=(600, 4))
y = (X[:, 0] + 0.5 * X[:, 1] > 0).astype(int)
settings = {"objective": "binary", "num_leaves": 7, "verbose": -1, "deterministic": True, "seed": 1}
model = train(settings, RayDMatrix(X, y), num_boost_round=10, ray_params=RayParams(num_actors=2, cpus_per_actor=1))
guessed = predict(model, RayDMatrix(X), ray_params=RayParams(num_actors=2, cpus_per_actor=1))
print("result:", len(guessed), bool(((guessed > 0.5) == y).mean() > 0.9))
