"""Moving averages of many windows by vectorbt, computed by its Ray backend."""

import numpy as np
import pandas as pd
import ray
import vectorbt as vbt

ray.init(num_cpus=2)
steps = np.random.default_rng(2).normal(size=(300, 2))
price = pd.DataFrame(100 + steps.cumsum(axis=0), columns=["a", "b"])


def above(close, window):
    """Where the price lies above the mean of the last `window` prices."""
    means = pd.DataFrame(close).rolling(int(window), min_periods=1).mean().to_numpy()
    return (close > means).astype(float)


factory = vbt.IndicatorFactory(
    class_name="Above", short_name="above", input_names=["close"], param_names=["window"], output_names=["out"]
)
indicator = factory.from_apply_func(above)
found = indicator.run(price, window=[5, 10, 20, 40], use_ray=True)
plain = indicator.run(price, window=[5, 10, 20, 40])
assert found.out.equals(plain.out)
print("result:", found.out.shape, found.out.sum().astype(int).tolist())
ray.shutdown()
