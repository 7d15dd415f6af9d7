"""What the page shows of a trained layer: how it learnt the digits, and which it got wrong."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from crossent import CrossEntropy
from crossent.search import Progress
from crossent.sklearn import CrossEntropyClassifier
from crossent.sums import LossSums

Array = NDArray[Any]

SEED = 0
PENALTY = 1e-3  # ten times the default: calmer images, for a little accuracy
ITERATIONS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89)
WRONG = 8
INK = "0123456789abcdefg"  # one character for each of a pixel's 17 levels


def trained_layer() -> dict[str, Any]:
    """Train one layer of ten neurons on four fifths of the digits and return its history.

    Returns
    -------
    dict
        "curve": iteration, training and validation loss in nats, from before the first iteration
        to after the last; "snapshots": the weights at some of them; "wrong": the validation digits
        that are taken for another at the highest price; and what the text of the page mentions.
        Plain numbers, lists and text, about 15 kB as JSON.

    Examples
    --------
    >>> from crossent.lab.layer import trained_layer
    >>> iteration, train, valid = trained_layer()["curve"][0]
    >>> round(train, 2)  # ln 10: every digit has about probability 1/10 at first
    2.3
    """
    images, digits = load_digits(return_X_y=True)
    X, X_valid, y, y_valid = train_test_split(
        images / 16, digits, test_size=0.2, random_state=SEED, stratify=digits
    )
    path: list[Progress] = []
    CrossEntropyClassifier(l2=PENALTY, callback=path.append).fit(X, y)
    scores = [X_valid @ step.coef.T + step.intercept for step in path]
    sums = [CrossEntropy().sums(s, y_valid) for s in scores]
    return {
        "n_train": len(y),
        "n_valid": len(y_valid),
        "classes": list(range(10)),
        "curve": [
            [step.iteration, round(step.loss, 4), round(valid.mean, 4)]
            for step, valid in zip(path, sums, strict=True)
        ],
        "snapshots": _snapshots(path, sums),
        "wrong": _most_confidently_wrong(X_valid, y_valid, scores[-1]),
    }


def _snapshots(path: list[Progress], sums: list[LossSums]) -> list[dict[str, Any]]:
    largest = max(np.abs(step.coef).max() for step in path)
    return [
        {
            "iteration": step.iteration,
            "train": round(step.loss, 4),
            "valid": round(valid.mean, 4),
            "accuracy": valid.accuracy,
            **_packed(step.coef, largest),
        }
        for step, valid in zip(path, sums, strict=True)
        if step.iteration in ITERATIONS or step is path[-1]
    ]


def _packed(weights: Array, largest: float) -> dict[str, Any]:
    """Return weights as signed bytes: -127 to 127 stands for -peak to peak, and 1 for `largest`."""
    peak = np.abs(weights).max()
    levels = np.rint(127 * weights / (peak or 1)).astype(np.int8)
    return {
        "peak": round(float(peak / largest), 4),
        "weights": base64.b64encode(levels.tobytes()).decode(),
    }


def _most_confidently_wrong(X: Array, y: Array, scores: Array) -> list[dict[str, Any]]:
    loss = CrossEntropy(reduction="none")
    errors, decisions = loss(scores, y), loss.predict(scores)
    worst = [int(i) for i in np.argsort(-errors) if decisions[i] != y[i]][:WRONG]
    return [
        {
            "pixels": "".join(INK[round(ink * 16)] for ink in X[i]),
            "label": int(y[i]),
            "decision": int(decisions[i]),
            "p": float(f"{np.exp(-errors[i]):.4g}"),
            "loss": float(f"{errors[i]:.4g}"),
        }
        for i in worst
    ]
