"""A pipeline of datatrove: documents filtered and counted by tasks."""

import json
import os

import ray
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

os.makedirs("input", exist_ok=True)
for number in range(4):
    with open(f"input/{number}.jsonl", "w") as file:
        for line in range(25):
            file.write(json.dumps({"text": f"document {number * 25 + line}", "id": str(number * 25 + line)}) + "\n")
ray.init(num_cpus=2)
executor = RayPipelineExecutor(
    pipeline=[
        JsonlReader(os.path.abspath("input")),
        LambdaFilter(lambda document: int(document.id) % 3 == 0),
        JsonlWriter(os.path.abspath("output"), compression=None),
    ],
    tasks=4,
    workers=2,
    logging_dir=os.path.abspath("logs"),
)
executor.run()
kept = []
for name in sorted(os.listdir("output")):
    with open(os.path.join("output", name)) as file:
        kept += [int(json.loads(line)["id"]) for line in file]
print("result:", len(kept), sorted(kept)[:5], len(os.listdir("logs/completions")))
ray.shutdown()
