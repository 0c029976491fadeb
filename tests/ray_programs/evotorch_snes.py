"""SNES and PGPE of EvoTorch, the population evaluated by Ray actors."""

import ray
import torch
from evotorch import Problem
from evotorch.algorithms import PGPE, SNES


def bowl(x: torch.Tensor) -> torch.Tensor:
    return torch.sum((x - 0.5) ** 2)


ray.init(num_cpus=2)
torch.manual_seed(3)
results = []
for algorithm, settings in (
    (SNES, {"stdev_init": 1.0, "popsize": 20}),
    (PGPE, {"popsize": 20, "center_learning_rate": 0.2, "stdev_learning_rate": 0.1, "stdev_init": 1.0}),
):
    problem = Problem("min", bowl, solution_length=4, initial_bounds=(-2, 2), num_actors=2)
    search = algorithm(problem, **settings)
    search.run(40)
    results.append(float(search.status["best_eval"]))
    problem.kill_actors()
print("result:", [value < 0.2 for value in results])
