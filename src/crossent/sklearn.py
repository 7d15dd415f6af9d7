"""A scikit-learn classifier: one layer of neurons trained by cross-entropy.

What is scikit-learn's lies here: options, attributes, conventions. The objective is in
`crossent.layer`, the way down in `crossent.search`, the errors in `crossent.losses`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

import crossent
from crossent import checks, labels, layer, separation
from crossent.layer import Array, Float64
from crossent.search import Progress, Search

SEPARABLE = "separable: the loss has no minimum"

_LOSSES: dict[str, Any] = {
    "softmax": crossent.CrossEntropy(),
    "sigmoid": crossent.BinaryCrossEntropy(reduction="batchmean"),
    "softmax_binary": crossent.SoftmaxBinaryCrossEntropy(),
}
_RARE = 1e-6  # the least frequency that a class is supposed to have, before anything is learnt
_FEATURES = {"accept_sparse": "csr", "dtype": [np.float64, np.float32]}


class CrossEntropyClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""One layer of neurons, z = X w + b, trained by cross-entropy.

    What is minimised, over the weights w and the biases b, is

        F(w, b) = (1 / sum_i s_i) sum_i s_i E(z_i, y_i) + (l2 / 2) ||w||^2

    with E the error of one row in nats and s_i its sample_weight times the class_weight of its
    class. The biases are not penalised.

    Parameters
    ----------
    loss : {"auto", "softmax", "sigmoid", "softmax_binary"}, default "auto"
        "softmax": K outputs, and -ln p of the true class. "sigmoid": each output on its own, the
        two-term error summed over the outputs; one output for two classes, else one per class
        (one against the rest). "softmax_binary": K softmax outputs with the two-term error.
        "auto": sigmoid for two classes and for an indicator matrix, softmax for more classes.
    l2 : float >= 0, default 1e-4
        Strength of the penalty. As the loss is a mean, it means the same for any number of rows;
        scikit-learn's C is 1 / (n * l2).
    class_weight : dict of label to weight, or "balanced", optional
        Multiplies the sample_weight of each class; labels not named have weight 1. "balanced"
        gives all classes the same total.
    standardize : bool, default False
        Penalise the weights of standardised features: l2/2 sum_j (deviation_j w_j)^2. As the
        biases are free, this is training on standardised features; but X is not copied and not
        centred (so sparse stays sparse), and coef_ and intercept_ are those for X as given.
        Convergence does not need it: the search finds its own scale in any case.
    tol : float > 0, default 1e-4
        Training stops when the length of F's gradient falls below tol. It is measured in
        coordinates in which F curves about alike in every direction, where half its square is
        about what is left to gain, in nats: tol means the same in any unit, for any number of
        rows and of parameters.
    max_iter : int >= 1, default 1000
        Most iterations of the search.
    warm_start : bool, default False
        Start `fit` from the coefficients of the last one, if it had the same classes and features.
    callback : callable, optional
        Called with a `crossent.search.Progress` before the first iteration and after each one,
        when the estimator predicts with the coefficients it has by then. Training stops when it
        returns True.

    Attributes
    ----------
    classes_ : array (K,)
        The labels, sorted, in the type they came in; 0 ... J - 1 for an indicator matrix.
    loss_ : str
        The loss that was minimised: what "auto" became.
    multilabel_ : bool
        Whether the targets were an indicator matrix.
    coef_ : float64 array (J, D)
        Weights, one row per output; a single row for two classes and "sigmoid".
    intercept_ : float64 array (J,)
        Biases.
    n_iter_ : int
        Iterations made.
    loss_history_ : float64 array (n_iter_ + 1,)
        F at the start and after each iteration, in nats.
    stop_reason_ : str
        "gradient below tol"; "max_iter reached, loss still falling by x per iteration"; "no
        further decrease within rounding"; "stopped by the callback"; or, for l2 = 0,
        "separable: the loss has no minimum".
    n_features_in_, feature_names_in_
        As for any scikit-learn estimator.

    Notes
    -----
    Dense float32 and float64 features are used where they lie, in any order, read-only or not:
    nothing is copied. Products are taken in their dtype; sums, coefficients and the search are
    float64. Sparse matrices are taken as CSR. The search is SciPy's L-BFGS-B, or its trust-region
    Newton-CG where the history of the former would outweigh X; beyond X it needs the scores of
    about 4 MB of rows (the latter of all rows) and its vectors.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from crossent.sklearn import CrossEntropyClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = CrossEntropyClassifier(l2=1e-3).fit(X, y)
    >>> model.stop_reason_, round(model.score(X, y), 2)
    ('gradient below tol', 0.98)

    References
    ----------
    Bishop, Pattern Recognition and Machine Learning (2006), section 4.3.
    """

    def __init__(
        self,
        *,
        loss: str = "auto",
        l2: float = 1e-4,
        class_weight: Any = None,
        standardize: bool = False,
        tol: float = 1e-4,
        max_iter: int = 1000,
        warm_start: bool = False,
        callback: Callable[[Progress], object] | None = None,
    ) -> None:
        self.loss = loss
        self.l2 = l2
        self.class_weight = class_weight
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.callback = callback

    # Training -----------------------------------------------------------------------------------

    @layer.one_blas_thread()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all rows.

        Parameters
        ----------
        X : (n, D) array or sparse matrix
            Features, finite.
        y : (n,) labels of one sortable type, or (n, J) indicator matrix
            A row may belong to any number of the columns of an indicator matrix.
        sample_weight : (n,) array, optional; also (n, J) for an indicator matrix
            Weights >= 0. A row of weight 0 takes no part, and neither does its label.

        Raises
        ------
        ValueError, TypeError
            For labels that are missing or continuous, a single class, a negative weight, features
            that are not finite, an option out of range.
        """
        before = vars(self).copy()
        X, y = self._validated(X, y, reset=True)
        weight = labels.sample_weight(sample_weight, y)
        self._choose(y, labels.classes_of(y, weight))
        task = self._task(X, y, weight)
        memory = task.new_memory(self.standardize)
        start = task.start()
        if self.warm_start and np.array_equal(before.get("classes_", []), self.classes_):
            last = self._parameters(memory.origin)
            start = last if last.shape == start.shape else start
        return self._learn(task, memory, start)

    @layer.one_blas_thread()
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train on more rows without forgetting those before.

        What earlier rows (of `fit` or `partial_fit`) taught is kept as a Gaussian: the
        coefficients, and how strongly those rows hold each of them in place. The first call does
        what `fit` does.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array of labels, optional
            All labels there will ever be: needed in the first call, unless y is an indicator
            matrix.
        """
        first = not hasattr(self, "_memory")
        X, y = self._validated(X, y, reset=first)
        weight = labels.sample_weight(sample_weight, y)
        if first:
            self._choose(y, labels.given_classes(classes, y))
        elif classes is not None and not np.array_equal(
            labels.given_classes(classes, y), self.classes_
        ):
            raise ValueError(
                f"classes is {labels.listed(classes)}; "
                f"in the first call it was {labels.listed(self.classes_)}"
            )
        task = self._task(X, y, weight)
        if first:
            return self._learn(task, task.new_memory(self.standardize), task.start())
        return self._learn(task, self._memory, self._parameters(self._memory.origin))

    def _validated(self, X: Any, y: Any, reset: bool) -> tuple[Any, Array]:
        """Return features, and labels or an indicator matrix of as many rows."""
        if y is None:
            raise ValueError("This classifier requires y to be passed, but the target y is None")
        X = validate_data(self, X, reset=reset, **_FEATURES)
        y = labels.labels(y)
        check_consistent_length(X, y)
        return X, y

    def _choose(self, y: Array, classes: Array) -> None:
        """Store the classes, and the loss that the options ask for."""
        if self.loss not in ("auto", *_LOSSES):
            allowed = ", ".join(map(repr, ("auto", *_LOSSES)))
            raise ValueError(f"loss is {self.loss!r}; it must be one of {allowed}")
        multilabel = y.ndim == 2
        if multilabel and self.loss not in ("auto", "sigmoid"):
            raise ValueError(
                f"loss is {self.loss!r}, but y is an indicator matrix, whose columns do not "
                "exclude each other; the loss must be 'sigmoid'"
            )
        auto = "sigmoid" if multilabel or len(classes) == 2 else "softmax"
        self.loss_ = auto if self.loss == "auto" else self.loss
        self.classes_, self.multilabel_ = classes, multilabel

    def _task(self, X: Any, y: Array, weight: Float64 | None) -> _Task:
        """Return the rows as the loss takes them."""
        loss = _LOSSES[self.loss_]
        if self.multilabel_ != (y.ndim == 2) or (y.ndim == 2 and y.shape[1] != len(self.classes_)):
            raise ValueError(f"y has shape {y.shape}; it must be like that of the first call")
        if self.multilabel_:
            if self.class_weight is not None:
                raise ValueError(
                    "class_weight is given, but the columns of an indicator matrix do not exclude "
                    "each other; use sample_weight of shape (n, J)"
                )
            return _Task(loss, X, y.astype(X.dtype), weight, y.shape[1])
        codes = labels.codes_of(y, self.classes_, weight)
        weight = labels.with_class_weight(weight, codes, self.classes_, self.class_weight)
        if self.loss_ != "sigmoid":
            return _Task(loss, X, codes, weight, len(self.classes_))
        if len(self.classes_) == 2:
            return _Task(loss, X, codes[:, None].astype(X.dtype), weight, 1)
        one_hot = np.equal.outer(codes, np.arange(len(self.classes_)))
        return _Task(loss, X, one_hot.astype(X.dtype), weight, len(self.classes_))

    def _learn(self, task: _Task, memory: layer.Memory, start: Float64) -> Self:
        """Search for the minimum, and store it with what led there."""
        l2 = checks.number("l2", self.l2, 0.0, np.inf)
        tol = checks.number("tol", self.tol, 0.0, np.inf, open_low=True)
        max_iter = int(
            checks.number("max_iter", checks.whole_number("max_iter", self.max_iter), 1, np.inf)
        )
        total = memory.weight + task.total
        prior = memory.prior(l2, start, total)
        objective = layer.Objective(task.loss, task.blocks(), total, memory.origin, prior)
        coordinates = task.coordinates(memory.origin, prior.precision.mean(axis=1))
        report = None if self.callback is None else self._report
        search = Search(objective, coordinates, start, report).run(tol, max_iter)
        weights, self.intercept_ = objective.affine(search.parameters)
        self.coef_ = np.ascontiguousarray(weights.T)
        self.n_iter_, self.stop_reason_ = search.iterations, search.reason
        self.loss_history_ = np.array(search.history)
        self._judge(task)
        self._memory = memory.and_rows(task.loss, task.block, task.total, search.parameters)
        return self

    def _report(self, progress: Progress) -> object:
        self.coef_, self.intercept_ = progress.coef, progress.intercept
        return self.callback(progress) if self.callback else None

    def _judge(self, task: _Task) -> None:
        """Say what a user should know about how the search ended."""
        if not np.isfinite(self.coef_).all():
            raise ValueError("the coefficients overflow; scale the features to a smaller range")
        advice = "raise max_iter or tol; a larger l2 makes the minimum easier to reach"
        if self.l2 == 0 and (by := self._separated_by(task)):
            self.stop_reason_ = SEPARABLE
            advice = f"{by} can tell classes apart without error; use l2 > 0"
        if self.stop_reason_.startswith((SEPARABLE, "max_iter")):
            warnings.warn(f"{self.stop_reason_}; {advice}", ConvergenceWarning, stacklevel=4)

    def _separated_by(self, task: _Task) -> str:
        """Return what tells classes apart without error, empty if nothing is seen to."""
        columns = separation.separating_columns(task.block, task.outputs)
        names = vars(self).get("feature_names_in_", np.arange(self.n_features_in_))[columns]
        if len(names):
            return f"column {labels.listed(names)}" + (" (each alone)" if len(names) > 1 else "")
        if separation.separates(task.blocks(), self.coef_.T, self.intercept_):
            return "the features together"
        return ""

    def _parameters(self, origin: Float64) -> Float64:
        """Return the layer as `crossent.layer` has it, its scores taken at an origin."""
        return np.vstack([self.coef_.T, self.intercept_ + self.coef_ @ origin])

    # Predicting ---------------------------------------------------------------------------------

    def decision_function(self, X: Any) -> Array:
        """Return the scores z = X w + b.

        Returns
        -------
        (n, J) array in the dtype of X; for two classes (n,), positive for the second of them.
        """
        scores = self._scores(X)
        if self.multilabel_ or len(self.classes_) > 2:
            return scores
        return scores[:, 0] if scores.shape[1] == 1 else scores[:, 1] - scores[:, 0]

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, in the order of `classes_`.

        Returns
        -------
        float64 array (n, K), two columns for two classes. For an indicator matrix (n, J): one
        probability per output, which do not sum to 1. With "sigmoid" and more than two classes
        the outputs are divided by their sum, in logarithms, so that no row is 0 / 0.
        """
        return self._activate(X, crossent.softmax, crossent.sigmoid)

    def predict_log_proba(self, X: Any) -> Array:
        """Return ln of `predict_proba`, exact also where the probability rounds to 0 or 1."""
        return self._activate(X, crossent.log_softmax, crossent.log_sigmoid)

    def predict(self, X: Any) -> Array:
        """Return the label of the most probable class, or an indicator matrix of 0 and 1."""
        scores = self.decision_function(X)
        if self.multilabel_:
            return (scores > 0).astype(np.int64)
        codes = (scores > 0).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)
        return np.asarray(self.classes_[codes])

    def cross_entropy(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean error of rows, in nats: what `fit` minimises, without the penalty."""
        check_is_fitted(self)
        X, y = self._validated(X, y, reset=False)
        task = self._task(X, y, labels.sample_weight(sample_weight, y))
        scores = layer.scores_of(X, self.coef_.T, self.intercept_)
        return float(task.loss(scores, task.targets, task.weight, task.total))

    def _activate(self, X: Any, softmax: Callable[..., Any], sigmoid: Callable[..., Any]) -> Array:
        scores = self._scores(X).astype(np.float64)
        if self.multilabel_:
            return np.asarray(sigmoid(scores))
        if scores.shape[1] == 1:  # sigmoid(z) is the softmax of (0, z)
            scores = np.hstack([np.zeros_like(scores), scores])
        elif self.loss_ == "sigmoid":
            scores = crossent.log_sigmoid(scores)
        return np.asarray(softmax(scores))

    def _scores(self, X: Any) -> Array:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, **_FEATURES)
        return layer.scores_of(X, self.coef_.T, self.intercept_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = self.loss in ("auto", "sigmoid")
        tags.input_tags.sparse = True
        return tags


@dataclass(frozen=True)
class _Task:
    """Rows to learn from, with targets as the loss takes them.

    Attributes
    ----------
    targets : array
        Class indices (n,) for softmax, 0 and 1 of shape (n, J) for sigmoid.
    weight : array (n,) or (n, J), or None
        Sample weights.
    outputs : int
        J.
    """

    loss: Any
    features: Any
    targets: Array
    weight: Float64 | None
    outputs: int

    @property
    def block(self) -> layer.Block:
        """Return all rows as one block."""
        return layer.Block(self.features, self.targets, self.weight)

    def blocks(self) -> list[layer.Block]:
        """Return the rows in blocks."""
        return layer.blocks_of(*self.block)

    @property
    def total(self) -> float:
        """Return what a mean over the rows divides by."""
        if self.weight is None:
            return float(len(self.targets))
        return float(self.weight.sum()) / (self.weight.shape[1] if self.weight.ndim == 2 else 1)

    def new_memory(self, standardize: bool) -> layer.Memory:
        """Return the memory of no rows yet, with the unit in which each weight is penalised."""
        columns = self.features.shape[1]
        scale = np.ones(columns)
        if standardize:
            _, variance = layer.moments(self.blocks())
            scale = np.sqrt(np.where(variance > 0, variance, 1.0))
        origin = layer.centre(self.features)
        return layer.Memory(origin, scale, np.zeros((columns + 1, self.outputs)))

    def coordinates(self, origin: Float64, precision: Float64) -> layer.Coordinates:
        """Return coordinates for the search."""
        p = layer.outputs_of(self.loss, np.zeros((1, self.outputs)))
        return layer.coordinates_for(self.features, origin, float((p * (1 - p)).mean()), precision)

    def start(self) -> Float64:
        """Return weights of 0, with scores that give every class or output its frequency."""
        if self.targets.ndim == 1:
            share = np.bincount(self.targets, self.weight, self.outputs) / self.total
            scores = np.log(np.maximum(share, _RARE))
        else:
            share = np.average(self.targets, axis=0, weights=self._output_weight())
            share = share.clip(_RARE, 1 - _RARE)
            scores = np.log(share / (1 - share))
        return np.vstack([np.zeros((self.features.shape[1], self.outputs)), scores])

    def _output_weight(self) -> Float64 | None:
        if self.weight is None or self.weight.ndim == 2:
            return self.weight
        return np.broadcast_to(self.weight[:, None], self.targets.shape)
