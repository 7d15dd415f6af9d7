"""Model files: arrays as safetensors, everything else one JSON header among their metadata.

Reading one runs no code: there is nothing in it but numbers and text, and no class is looked up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import crossent
from crossent.curvature import Memory
from crossent.encoding import TableEncoder
from crossent.files import replacing
from crossent.sklearn import CrossEntropyClassifier

KEY = "crossent model"  # of the header among the metadata
VERSION = 1

_ARRAYS = ("coef", "intercept", "loss_history", "origin", "scale", "curvature")
_STATE = ("loss_", "multilabel_", "n_iter_", "stop_reason_", "n_features_in_")
_LABEL_TYPES = (str, int, float, bool)


@dataclass(frozen=True)
class Model:
    """A classifier, and how the columns of a table become its features, if they do.

    Attributes
    ----------
    classifier : CrossEntropyClassifier
        Fitted.
    encoder : TableEncoder, optional
        What to apply to a table first.
    target : str, optional
        The column that was learnt.
    """

    classifier: CrossEntropyClassifier
    encoder: TableEncoder | None = None
    target: str | None = None


def save(model: Model | CrossEntropyClassifier, path: str | Path) -> None:
    """Write a model; an earlier file is replaced only when all is written.

    A callback is not kept. Labels may be text, integers, truth values or floats.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from crossent import model_file
    >>> from crossent.sklearn import CrossEntropyClassifier
    >>> classifier = CrossEntropyClassifier().fit([[0.0], [1.0], [2.0]], ["no", "no", "yes"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "small.crossent"
    ...     model_file.save(classifier, path)
    ...     model_file.load(path).classifier.predict([[3.0]])
    array(['yes'], dtype='<U3')
    """
    if not isinstance(model, Model):
        model = Model(model)
    header, arrays = _contents(model)
    text = json.dumps(header, allow_nan=False)
    with replacing(Path(path)) as beside:
        try:
            save_file(arrays, beside, metadata={KEY: text})
        except SafetensorError as error:  # its words for what the system says
            raise OSError(f"{path} cannot be written: {error}") from error


def load(path: str | Path) -> Model:
    """Read a model.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For a file that is cut short, is no model of ours, or is of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in _ARRAYS if KEY in metadata}
    except SafetensorError as error:
        raise ValueError(f"{path} is no model file, or it was cut short: {error}") from error
    if KEY not in metadata:
        raise ValueError(f"{path} is a safetensors file, but not one of a crossent model")
    try:
        return _model(json.loads(metadata[KEY]), arrays)
    except _OtherVersionError as error:
        raise ValueError(f"{path} {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its header does not fit its arrays") from error


# To numbers and text, and back ------------------------------------------------------------------


def _contents(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the arrays of a model."""
    classifier, memory = model.classifier, model.classifier._memory
    names = vars(classifier).get("feature_names_in_")
    header = {
        "version": VERSION,
        "crossent": crossent.__version__,
        "classes": _labels(classifier.classes_),
        "options": _options(classifier),
        "state": {name: getattr(classifier, name) for name in _STATE},
        "weight_seen": memory.weight,
        "feature_names": None if names is None else list(names),
        "columns": None if model.encoder is None else model.encoder.record,
        "target": model.target,
    }
    layer = (classifier.coef_, classifier.intercept_, classifier.loss_history_)
    scale = np.broadcast_to(memory.scale, memory.origin.shape)
    arrays = map(np.ascontiguousarray, (*layer, memory.origin, scale, memory.diagonal))
    return header, dict(zip(_ARRAYS, arrays, strict=True))


def _model(header: dict[str, Any], arrays: dict[str, Any]) -> Model:
    """Return the model of a header and arrays."""
    if header["version"] != VERSION:
        raise _OtherVersionError(
            f"has format version {header['version']}, of crossent {header['crossent']}; this is "
            f"crossent {crossent.__version__}, which reads version {VERSION}"
        )
    coef, intercept, history, origin, scale, curvature = (arrays[name] for name in _ARRAYS)
    outputs, features = coef.shape
    shapes = [(outputs,), (features,), (features,), (features + 1, outputs)]
    if [each.shape for each in (intercept, origin, scale, curvature)] != shapes:
        raise ValueError("shapes do not fit")
    options = header["options"]
    if isinstance(options["class_weight"], list):
        options["class_weight"] = dict(map(tuple, options["class_weight"]))
    classifier = CrossEntropyClassifier(**options)
    for name in _STATE:
        setattr(classifier, name, header["state"][name])
    classifier.classes_ = np.array(header["classes"]["labels"], dtype=header["classes"]["dtype"])
    classifier.coef_, classifier.intercept_, classifier.loss_history_ = coef, intercept, history
    classifier._memory = Memory(origin, scale, curvature, header["weight_seen"])
    names = header["feature_names"]
    if names is not None:
        classifier.feature_names_in_ = np.array(names, dtype=object)
    encoder = None if header["columns"] is None else TableEncoder(header["columns"])
    wide = {classifier.n_features_in_, features if names is None else len(names)}
    if encoder is not None:
        wide.add(len(encoder.feature_names))
    if wide != {features} or classifier._outputs != outputs:
        raise ValueError("shapes do not fit")
    return Model(classifier, encoder, header["target"])


class _OtherVersionError(Exception):
    pass


def _labels(classes: Any) -> dict[str, Any]:
    labels = classes.tolist()
    if classes.dtype.kind not in "biufUO" or not all(isinstance(x, _LABEL_TYPES) for x in labels):
        raise TypeError(
            f"labels of dtype {classes.dtype}, such as {labels[0]!r}, have no place in a model "
            "file; text, integers, truth values and floats have"
        )
    return {"dtype": str(classes.dtype), "labels": labels}


def _options(classifier: CrossEntropyClassifier) -> dict[str, Any]:
    """Return the classifier's options as JSON has them: labels may be no keys there."""
    options = {name: _plain(value) for name, value in classifier.get_params().items()}
    options["callback"] = None
    if isinstance(classifier.class_weight, dict):
        pairs = classifier.class_weight.items()
        options["class_weight"] = [[_plain(label), _plain(weight)] for label, weight in pairs]
    return options


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
