"""An anchor explanation by Alibi, its samples drawn by Ray actors."""

import numpy as np
from alibi.explainers import DistributedAnchorTabular
from sklearn.linear_model import LogisticRegression

random = np.random.default_rng(4)
X = random.integers(0, 10, size=(500, 3)).astype(float)
y = (X[:, 0] > 4).astype(int)
model = LogisticRegression().fit(X, y)
np.random.seed(0)
explainer = DistributedAnchorTabular(model.predict, ["first", "second", "third"], seed=1)
explainer.fit(X, disc_perc=(25, 50, 75), ncpu=2)
explanation = explainer.explain(X[0], threshold=0.95)
print("result:", any("first" in part for part in explanation.anchor), explanation.precision >= 0.95)
