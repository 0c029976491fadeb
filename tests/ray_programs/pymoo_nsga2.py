"""NSGA-II of pymoo, the population evaluated by Ray tasks."""

import numpy as np
import ray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import ElementwiseProblem
from pymoo.optimize import minimize
from pymoo.parallelization.ray import RayParallelization


class Bowls(ElementwiseProblem):
    """Two bowls with different bottoms."""

    def __init__(self, **more):
        super().__init__(n_var=3, n_obj=2, xl=-2.0, xu=2.0, **more)

    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = [np.sum(x**2), np.sum((x - 1) ** 2)]


ray.init(num_cpus=2)
runner = RayParallelization(job_resources={"num_cpus": 1})
problem = Bowls(elementwise_runner=runner)
found = minimize(problem, NSGA2(pop_size=16), ("n_gen", 8), seed=1)
print("result:", len(found.F), np.round(found.F.min(axis=0), 6).tolist(), np.round(found.F.sum(), 6))
ray.shutdown()
