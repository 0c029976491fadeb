"""A pipeline of distilabel, its steps actors."""

from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepInput, step


@step(inputs=["text"], outputs=["length"])
def Measure(inputs: StepInput):
    for row in inputs:
        row["length"] = len(row["text"])
    yield inputs


if __name__ == "__main__":
    with Pipeline("lengths").ray(ray_init_kwargs={"num_cpus": 2}) as pipeline:
        load = LoadDataFromDicts(data=[{"text": "x" * number} for number in range(20)], batch_size=5)
        load >> Measure()
    found = pipeline.run(use_cache=False)
    print("result:", sorted(found["default"]["train"]["length"]))
