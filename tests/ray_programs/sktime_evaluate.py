"""Backtesting of a forecaster, sktime's folds as Ray tasks."""

import warnings

import pandas as pd
from sktime.forecasting.model_evaluation import evaluate
from sktime.forecasting.naive import NaiveForecaster
from sktime.split import ExpandingWindowSplitter

warnings.simplefilter("ignore")
series = pd.Series(
    [100 + 10 * (month % 12) + month for month in range(72)],
    index=pd.period_range("2018-01", periods=72, freq="M"),
    dtype=float,
)
table = evaluate(
    forecaster=NaiveForecaster(strategy="drift", sp=1),
    y=series,
    cv=ExpandingWindowSplitter(initial_window=36, step_length=6, fh=[1, 2, 3]),
    backend="ray",
    backend_params={"ray_remote_args": {"num_cpus": 2}},
)
column = next(name for name in table.columns if name.startswith("test_"))
print("result:", len(table), column, [round(value, 8) for value in table[column]])
