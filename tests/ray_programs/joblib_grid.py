"""scikit-learn's grid search on joblib's Ray backend."""

import joblib
from ray.util.joblib import register_ray
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

register_ray()
X, y = make_classification(n_samples=300, n_features=8, random_state=3)
search = GridSearchCV(LogisticRegression(max_iter=200), {"C": [0.01, 0.1, 1.0, 10.0]}, cv=4)
with joblib.parallel_backend("ray", n_jobs=2):
    search.fit(X, y)
    squares = joblib.Parallel()(joblib.delayed(pow)(number, 2) for number in range(30))
print("result:", search.best_params_, round(search.best_score_, 6), sum(squares))
