"""A Hydra sweep whose jobs are Ray tasks (hydra-ray-launcher)."""

import os
import sys
import tempfile
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

ConfigStore.instance().store(name="config", node={"x": 1, "y": 2})
FOLDER = os.environ.setdefault("SWEEP_FOLDER", tempfile.mkdtemp())


@hydra.main(version_base=None, config_name="config")
def job(config: DictConfig) -> float:
    Path(FOLDER, f"{config.x}_{config.y}").write_text(str(config.x * 10 + config.y))
    return config.x * 10 + config.y


if __name__ == "__main__":
    sys.argv += ["--multirun", "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "x=1,2,3", "y=4,5"]
    sys.argv += [f"hydra.sweep.dir={FOLDER}/out"]
    job()
    print("result:", sorted(int(Path(FOLDER, f"{x}_{y}").read_text()) for x in (1, 2, 3) for y in (4, 5)))
