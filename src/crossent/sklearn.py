"""A scikit-learn classifier: one layer of neurons trained by cross-entropy.

What is scikit-learn's lies here: options, attributes, conventions. The rows it learns from are in
`crossent.task`, the way down is found by `crossent.training`, the errors are in `crossent.losses`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, Self, TypeVar, cast

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

import crossent
from crossent import checks, labels, layer, separation
from crossent.checkpoint import Checkpoint
from crossent.curvature import Memory
from crossent.distributed import ALONE, Alone
from crossent.layer import Array, Block, Float64
from crossent.search import Descent, Progress
from crossent.task import Blocks, Coded, Each, Task, survey_of
from crossent.training import Goal, descend

Method = TypeVar("Method", bound=Callable[..., Any])
SEPARABLE = "separable: the loss has no minimum"

_LOSSES: dict[str, Any] = {
    "softmax": crossent.CrossEntropy(),
    "sigmoid": crossent.BinaryCrossEntropy(reduction="batchmean"),
    "softmax_binary": crossent.SoftmaxBinaryCrossEntropy(),
}
_FEATURES = {"accept_sparse": "csr", "dtype": [np.float64, np.float32]}


def _whole(fit: Method) -> Method:
    """Let a method train with BLAS kept to one thread, and as a whole or not at all.

    If it raises, the estimator is what it was before: no model is made of two fits.
    """

    @wraps(fit)
    def fit_or_restore(self: Any, *arguments: Any, **named: Any) -> Any:
        before = vars(self).copy()
        try:
            with layer.one_blas_thread():
                return fit(self, *arguments, **named)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return cast(Method, fit_or_restore)


class CrossEntropyClassifier(ClassifierMixin, BaseEstimator):
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
    float64. Sparse matrices are taken as CSR. The search is SciPy's L-BFGS-B, or
    Newton's method with conjugate gradients where the history of the former would outweigh X;
    beyond X the former needs the scores of about 4 MB of rows and some 30 vectors like coef_, the
    latter those of all rows and some 16 vectors. With l2 > 0 and a sparse X of at most 2 rows for
    5 features, `fit` and the first `partial_fit` search among the rows instead, in float32 and in
    the memory that coef_ takes in the end; beyond it they need a few numbers for each row and
    feature. Newton's method goes on where float32 does not reach tol.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from crossent.sklearn import CrossEntropyClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = CrossEntropyClassifier(l2=1e-3).fit(X, y)
    >>> model.stop_reason_, round(model.score(X, y), 2)
    ('gradient below tol', 0.99)

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

    @_whole
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
        self._choose(labels.classes_of(y, weight), multilabel=y.ndim == 2)
        task = self._task([self._coded(X, y, weight)])
        memory, start = task.new_memory(self.standardize), None
        alike = np.array_equal(before.get("classes_", []), self.classes_)
        if self.warm_start and alike and self.coef_.shape == (self._outputs, task.rows.columns):
            start = layer.parameters_of(self.coef_, self.intercept_, memory.origin)
        return self._learn(task, memory, start)

    @_whole
    def fit_batches(
        self,
        batches: Iterable[tuple[Any, ...]],
        classes: Any,
        *,
        ranks: Alone = ALONE,
        checkpoint: Checkpoint | None = None,
    ) -> Self:
        """Train on rows that come in batches, as many as there may be: what `fit` does with all.

        The loss and its gradient are sums over the rows, so a look at all of them is one pass
        through the batches: one for each step of the search, and two before the first, or four
        to standardise.

        Parameters
        ----------
        batches : iterable of (X, codes) or (X, codes, sample_weight)
            Gone through anew for every look at the rows, so no generator: a list of batches that
            lie in memory, or an object whose `__iter__` reads them again. X is (m, D), codes (m,)
            are positions in classes, whole numbers.
        classes : array of labels
            All labels there are, sorted.
        ranks : crossent.distributed.Alone, optional
            The processes that share out the rows; batches are those of this one.
        checkpoint : crossent.checkpoint.Checkpoint, optional
            Keeps what is needed to go on where this training stopped.

        Examples
        --------
        >>> import numpy as np
        >>> from crossent.sklearn import CrossEntropyClassifier
        >>> class Halves:
        ...     def __iter__(self):
        ...         yield np.array([[0.0], [1.0]]), np.array([0, 0])
        ...         yield np.array([[2.0], [3.0]]), np.array([1, 1])
        >>> CrossEntropyClassifier().fit_batches(Halves(), ["no", "yes"]).predict([[2.5]])
        array(['yes'], dtype='<U3')
        """
        if isinstance(batches, Iterator):
            raise ValueError(
                "batches can be gone through once only; it must be a list, or an object that "
                "begins anew each time"
            )
        found = labels.given_classes(classes, np.empty(0))
        if not np.array_equal(found, np.asarray(classes)):
            raise ValueError(
                f"classes is {checks.listed(classes)}; it must be sorted, each label once: codes "
                "are positions in it"
            )
        self._choose(found, multilabel=False)
        several: Iterable[Coded] = Each(batches, self._taken)
        task = self._task(list(several) if isinstance(batches, list) else several, ranks)
        self.n_features_in_ = task.rows.columns
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        return self._learn(task, task.new_memory(self.standardize), None, checkpoint)

    @_whole
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train on more rows without forgetting those before.

        What earlier rows (of `fit` or `partial_fit`) taught is kept as a Gaussian: the
        coefficients, and how strongly those rows hold each of them in place (of sparse rows with
        more features: those of each feature, and of each output). The first call does what `fit`
        does.

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
            self._choose(labels.given_classes(classes, y), multilabel=y.ndim == 2)
        elif classes is not None and not np.array_equal(
            labels.given_classes(classes, y), self.classes_
        ):
            raise ValueError(
                f"classes is {checks.listed(classes)}; "
                f"in the first call it was {checks.listed(self.classes_)}"
            )
        task = self._task([self._coded(X, y, weight)])
        if first:
            return self._learn(task, task.new_memory(self.standardize))
        last = layer.parameters_of(self.coef_, self.intercept_, self._memory.origin)
        return self._learn(task, self._memory, last)

    def _validated(self, X: Any, y: Any, reset: bool) -> tuple[Any, Array]:
        """Return features, and labels or an indicator matrix of as many rows."""
        if y is None:
            raise ValueError("This classifier requires y to be passed, but the target y is None")
        X = validate_data(self, X, reset=reset, **_FEATURES)
        y = labels.labels(y)
        check_consistent_length(X, y)
        return X, y

    def _taken(self, X: Any, codes: Any, sample_weight: Any = None) -> Coded:
        """Return a batch as it is used; that X is finite is not looked at every time."""
        X = check_array(
            X, estimator=self, ensure_all_finite=False, ensure_min_samples=0, **_FEATURES
        )
        codes = checks.labels(codes, len(self.classes_))
        check_consistent_length(X, codes)
        return Coded(X, codes, checks.sample_weight(sample_weight, codes.shape))

    def _choose(self, classes: Array, multilabel: bool) -> None:
        """Store the classes, and the loss that the options ask for."""
        if self.loss not in ("auto", *_LOSSES):
            allowed = ", ".join(map(repr, ("auto", *_LOSSES)))
            raise ValueError(f"loss is {self.loss!r}; it must be one of {allowed}")
        if multilabel and self.loss not in ("auto", "sigmoid"):
            raise ValueError(
                f"loss is {self.loss!r}, but y is an indicator matrix, whose columns do not "
                "exclude each other; the loss must be 'sigmoid'"
            )
        auto = "sigmoid" if multilabel or len(classes) == 2 else "softmax"
        self.loss_ = auto if self.loss == "auto" else self.loss
        self.classes_, self.multilabel_ = classes, multilabel
        self._goal()  # raises what is wrong with another option before a look at all rows

    def _coded(self, X: Any, y: Array, weight: Float64 | None) -> Coded:
        """Return rows with labels as positions in the classes; an indicator matrix stays."""
        if self.multilabel_ != (y.ndim == 2) or (y.ndim == 2 and y.shape[1] != len(self.classes_)):
            raise ValueError(f"y has shape {y.shape}; it must be like that of the first call")
        if not self.multilabel_:
            return Coded(X, labels.codes_of(y, self.classes_, weight), weight)
        if self.class_weight is not None:
            raise ValueError(
                "class_weight is given, but the columns of an indicator matrix do not exclude "
                "each other; use sample_weight of shape (n, J)"
            )
        return Coded(X, y, weight)

    def _task(self, batches: Iterable[Coded], ranks: Alone = ALONE) -> Task:
        """Return the rows as the loss takes them, after a look at all of them."""
        before, survey = ranks.scan(survey_of(batches, len(self.classes_)))
        if survey is None or not survey.totals.any():
            raise ValueError("no row takes part; there must be some, of a weight greater than zero")
        totals, per_class = survey.totals, None
        if not self.multilabel_:
            per_class = labels.class_weights(totals[0], self.classes_, self.class_weight)
            totals = np.stack(
                [totals[0] * per_class, np.full_like(per_class, totals[0] @ per_class)]
            )
        if not totals.any():
            raise ValueError("class_weight leaves no row a weight greater than zero")
        outputs = self._outputs
        blocks = Each(
            batches, Blocks(self.loss_, outputs, per_class if self.class_weight else None)
        )
        rows = layer.Rows(
            list(blocks) if isinstance(batches, list) else blocks,
            survey.count,
            survey.columns,
            survey.dtype,
            survey.sparse,
            survey.nbytes,
            before.count if before else 0,
            ranks,
        )
        return Task(_LOSSES[self.loss_], rows, totals[:, -outputs:])

    @property
    def _outputs(self) -> int:
        """Return J: one for two classes told apart by a sigmoid, else one per class."""
        one = self.loss_ == "sigmoid" and not self.multilabel_ and len(self.classes_) == 2
        return 1 if one else len(self.classes_)

    def _learn(
        self,
        task: Task,
        memory: Memory,
        start: Float64 | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Self:
        """Search for the minimum, by default from no weights, and store it with what led there."""
        report = None if self.callback is None and checkpoint is None else self._report(checkpoint)
        self._take(descend(task, memory, self._goal(), start, report, checkpoint))
        if checkpoint is not None:
            checkpoint.write()
        self._judge(task)
        taught = task.loss, task.rows, task.total, self.coef_.T, self.intercept_
        self._memory = memory.and_rows(*taught)
        return self

    def _take(self, way: Descent) -> None:
        """Store where a way has led; what it held besides is given back with it."""
        self.coef_, self.intercept_ = way.layer()
        self.n_iter_, self.stop_reason_ = way.iterations, way.reason
        self.loss_history_ = np.array(way.history)

    def _goal(self) -> Goal:
        """Return what the options ask for."""
        max_iter = checks.whole_number("max_iter", self.max_iter)
        return Goal(
            self.loss_,
            checks.number("l2", self.l2, 0.0, np.inf),
            checks.number("tol", self.tol, 0.0, np.inf, open_low=True),
            int(checks.number("max_iter", max_iter, 1, np.inf)),
        )

    def _report(self, checkpoint: Checkpoint | None) -> Callable[[Progress], object]:
        """Return what takes note of every iteration."""

        def report(progress: Progress) -> object:
            self.coef_, self.intercept_ = progress.coef, progress.intercept
            if checkpoint is not None:
                checkpoint.after(progress.iteration)
            return self.callback(progress) if self.callback else None

        return report

    def _judge(self, task: Task) -> None:
        """Say what a user should know about how the search ended."""
        if not all(np.isfinite(each).all() for each in self.coef_):
            raise ValueError("the coefficients overflow; scale the features to a smaller range")
        advice = "raise max_iter or tol; a larger l2 makes the minimum easier to reach"
        if self.l2 == 0 and (by := self._separated_by(task)):
            self.stop_reason_ = SEPARABLE
            advice = f"{by} can tell classes apart without error; use l2 > 0"
        if self.stop_reason_.startswith((SEPARABLE, "max_iter")):
            warnings.warn(f"{self.stop_reason_}; {advice}", ConvergenceWarning, stacklevel=5)

    def _separated_by(self, task: Task) -> str:
        """Return what tells classes apart without error, empty if nothing is seen to."""
        columns = separation.separating_columns(task.rows, self._outputs)
        names = vars(self).get("feature_names_in_", np.arange(self.n_features_in_))[columns]
        if len(names):
            return f"column {checks.listed(names)}" + (" (each alone)" if len(names) > 1 else "")
        if separation.separates(task.rows, self.coef_.T, self.intercept_):
            return "the features together"
        return ""

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
        task = self._task([self._coded(X, y, labels.sample_weight(sample_weight, y))])

        def loss(block: Block) -> Array:
            scores = layer.scores_of(block.features, self.coef_.T, self.intercept_)
            return np.array([task.loss(scores, block.targets, block.weight, task.total)])

        return float(task.rows.sum(loss, (1,))[0])

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
        if issparse(X):
            checks.sparse_rows(X)
        return layer.scores_of(X, self.coef_.T, self.intercept_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = self.loss in ("auto", "sigmoid")
        tags.input_tags.sparse = True
        return tags
