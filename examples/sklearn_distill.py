"""Distill a random forest into a small network, as a scikit-learn estimator."""

import pickle

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, train_test_split

from limbeck.integrations import DistilledClassifier

if __name__ == "__main__":
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, random_state=0)

    forest = RandomForestClassifier(300, random_state=0).fit(X, y)
    small = {"hidden": (32,), "epochs": 60, "random_state": 0}
    alone = DistilledClassifier(forest, weight=0.0, **small).fit(X, y)
    # FrozenEstimator keeps the fitted forest: the grid search would fit a clone for each candidate.
    choices = {"temperature": [1.0, 2.0, 4.0]}
    taught = GridSearchCV(DistilledClassifier(FrozenEstimator(forest), **small), choices, cv=3).fit(X, y)

    for name, model in {"forest": forest, "network alone": alone, "network distilled": taught}.items():
        print(f"{name:18} {model.score(X_test, y_test):.3f}")
    student = taught.best_estimator_.student_
    sizes = len(pickle.dumps(forest)) / 1e6, sum(p.numel() for p in student.parameters()) * 4 / 1e6
    print(f"T = {taught.best_params_['temperature']:g}; forest {sizes[0]:.1f} MB, network {sizes[1]:.3f} MB")
