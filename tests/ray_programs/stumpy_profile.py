"""A matrix profile by stumpy, in pieces as Ray tasks."""

import numpy as np
import ray
import stumpy

ray.init(num_cpus=2)
noise = np.random.default_rng(5)
series = np.sin(np.arange(600) / 9) + noise.normal(scale=0.3, size=600)
series[400:430] += np.linspace(0, 3, 30)
profile = stumpy.stumped(ray, series, m=30)
print("result:", int(np.argmax(profile[:, 0])), round(float(profile[:, 0].sum()), 6))
ray.shutdown()
