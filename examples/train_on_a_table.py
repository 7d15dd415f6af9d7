"""Train a classifier on a table of numbers with class weights, and look at what it learnt.

Wine of three growers, 13 measurements of each.

    python examples/train_on_a_table.py
"""

import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

from crossent.sklearn import CrossEntropyClassifier

wine = load_wine()
X, X_test, y, y_test = train_test_split(
    wine.data, wine.target, test_size=0.3, stratify=wine.target, random_state=0
)
classifier = CrossEntropyClassifier(l2=1e-2, class_weight="balanced", standardize=True)
classifier.fit(X, y)

print(f"stopped after {classifier.n_iter_} iterations: {classifier.stop_reason_}")
print(f"objective {classifier.loss_history_[0]:.4f} -> {classifier.loss_history_[-1]:.4f} nats")
print(f"cross-entropy of new rows {classifier.cross_entropy(X_test, y_test):.4f} nats")
print(f"accuracy on new rows {classifier.score(X_test, y_test):.4f}")

effect = classifier.coef_ * X.std(axis=0)  # per standard deviation of the feature
for label, row in zip(wine.target_names, effect, strict=True):
    strongest = np.argsort(-np.abs(row))[:3]
    says = ", ".join(f"{wine.feature_names[j]} {row[j]:+.2f}" for j in strongest)
    print(f"{label}: {says}")
