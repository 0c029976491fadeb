"""Double machine learning by EconML, its folds fitted as Ray tasks."""

import numpy as np
import ray
from econml.dml import LinearDML
from sklearn.linear_model import LinearRegression

ray.init(num_cpus=2)
random = np.random.default_rng(11)
X = random.normal(size=(400, 3))
T = X[:, 0] + random.normal(size=400)
Y = 2 * T + X[:, 1] + random.normal(scale=0.1, size=400)


def fitted(use_ray: bool) -> list[float]:
    model = LinearDML(
        model_y=LinearRegression(), model_t=LinearRegression(), cv=3, random_state=1,
        use_ray=use_ray, ray_remote_func_options={"num_cpus": 1} if use_ray else None,
    )  # fmt: skip
    model.fit(Y, T, X=X)
    return [round(float(effect), 6) for effect in model.effect(X[:4])]


assert fitted(use_ray=True) == fitted(use_ray=False)
print("result:", fitted(use_ray=True))
ray.shutdown()
