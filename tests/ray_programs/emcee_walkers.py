"""Walkers of emcee, their likelihood computed by a pool of Ray's; and a nested sampling of dynesty."""

import dynesty
import emcee
import numpy as np
import ray
from ray.util.multiprocessing import Pool


def likelihood(x):
    return -0.5 * float(np.sum(np.asarray(x) ** 2))


def prior(u):
    return 10 * u - 5


if __name__ == "__main__":
    ray.init(num_cpus=2)
    with Pool(2) as pool:
        rng = np.random.default_rng(3)
        np.random.seed(3)
        sampler = emcee.EnsembleSampler(16, 3, likelihood, pool=pool)
        sampler.run_mcmc(rng.normal(size=(16, 3)), 60)
        mean = np.abs(sampler.get_chain(discard=20, flat=True).mean(axis=0))
        nested = dynesty.NestedSampler(likelihood, prior, 2, nlive=50, pool=pool, queue_size=4, rstate=rng)
        nested.run_nested(maxcall=1500, print_progress=False)
    print("result:", sampler.get_chain().shape, bool((mean < 1).all()), bool(nested.results.logz[-1] < 0))
    ray.shutdown()
