"""A Hydra sweep whose jobs are Ray tasks (hydra-ray-launcher)."""

import os
import sys
import tempfile
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

ConfigStore.instance().store(name="config", node={"x": 1, "y": 2})


@hydra.main(version_base=None, config_name="config")
def job(config: DictConfig) -> float:
    with open(os.path.join(FOLDER, f"{config.x}_{config.y}"), "w") as file:
        file.write(str(config.x * 10 + config.y))
    return config.x * 10 + config.y


FOLDER = os.environ.setdefault("SWEEP_FOLDER", tempfile.mkdtemp())
if __name__ == "__main__":
    sys.argv += ["--multirun", "hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2", "x=1,2,3", "y=4,5"]
    sys.argv += [
        f"hydra.sweep.dir={FOLDER}/out",
        "+hydra.launcher.ray.init.runtime_env.env_vars.SWEEP_FOLDER=" + FOLDER,
    ]
    job()
    results = sorted(int(Path(FOLDER, name).read_text()) for name in os.listdir(FOLDER) if "_" in name)
    print("result:", results)
