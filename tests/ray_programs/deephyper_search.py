"""Hyperparameter search by DeepHyper, whose evaluator runs jobs as Ray tasks."""

import tempfile

from deephyper.evaluator import Evaluator
from deephyper.hpo import HpProblem, RandomSearch


def run(job):
    x, y = job.parameters["x"], job.parameters["y"]
    return -((x - 3) ** 2) - (y + 1) ** 2


problem = HpProblem()
problem.add_hyperparameter((-10.0, 10.0), "x")
problem.add_hyperparameter((-10.0, 10.0), "y")
evaluator = Evaluator.create(run, method="ray", method_kwargs={"num_cpus": 2, "num_cpus_per_task": 1})
with tempfile.TemporaryDirectory() as folder:
    search = RandomSearch(problem, random_state=4, log_dir=folder)
    table = search.search(evaluator, max_evals=20)
best = table.loc[table["objective"].idxmax()]
print("result:", len(table) >= 20, round(float(table["objective"].head(20).max()), 6), round(float(best["p:x"]), 6))
