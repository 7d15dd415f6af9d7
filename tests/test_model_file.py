"""Model files: everything comes back, nothing is run, and what is no model is a sentence."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from crossent import model_file
from crossent.encoding import TableEncoder
from crossent.model_file import KEY, Model
from crossent.sklearn import CrossEntropyClassifier

TABLE = pa.table(
    {
        "age": [30.0, None, 20.0, 50.0, 45.0, 23.0],
        "city": ["Bonn", "Ulm", "Ulm", None, "Bonn", "Ulm"],
    }
)
LABELS = np.array(["no", "yes", "no", "yes", "yes", "no"])


def model(**options: Any) -> Model:
    encoder = TableEncoder.fit(TABLE)
    classifier = CrossEntropyClassifier(**options).fit(encoder.transform(TABLE), LABELS)
    return Model(classifier, encoder, "answer")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.crossent"


def test_everything_comes_back(path: Path) -> None:
    before = model(class_weight={"no": np.float32(2)}, standardize=True, l2=np.float64(0.01))
    model_file.save(before, path)
    after = model_file.load(path)
    assert after.target == "answer"
    assert after.encoder is not None
    assert after.encoder.record == before.encoder.record
    assert after.classifier.get_params() == before.classifier.get_params()
    for name, value in vars(before.classifier).items():
        if name != "_memory":
            assert np.array_equal(getattr(after.classifier, name), value), name
    features = after.encoder.transform(TABLE)
    assert (after.classifier.predict(features) == before.classifier.predict(features)).all()
    assert os.listdir(path.parent) == [path.name]


def test_a_classifier_alone_keeps_the_names_of_its_features(path: Path) -> None:
    X = pa.table({"a": [0.0, 1.0, 2.0], "b": [1.0, 0.0, 1.0]})
    classifier = CrossEntropyClassifier().fit(X, [True, False, True])
    model_file.save(classifier, path)
    after = model_file.load(path)
    assert after.encoder is None
    assert after.target is None
    assert after.classifier.feature_names_in_.tolist() == ["a", "b"]
    assert after.classifier.predict(X).tolist() == classifier.predict(X).tolist()


def test_outputs_that_do_not_exclude_each_other_come_back(path: Path) -> None:
    X = np.arange(12.0).reshape(6, 2) % 5
    y = np.array([[0, 1], [1, 1], [1, 0], [0, 0], [1, 1], [0, 1]])
    classifier = CrossEntropyClassifier().fit(X, y)
    model_file.save(classifier, path)
    after = model_file.load(path).classifier
    assert after.multilabel_
    assert (after.predict_proba(X) == classifier.predict_proba(X)).all()


def test_the_same_model_makes_the_same_bytes(path: Path) -> None:
    model_file.save(model(), path)
    first = path.read_bytes()
    model_file.save(model(), path)
    assert path.read_bytes() == first


def test_a_callback_is_not_kept(path: Path) -> None:
    before = model(callback=lambda progress: None)
    model_file.save(before, path)
    assert model_file.load(path).classifier.callback is None
    assert before.classifier.callback is not None


def test_labels_without_a_place_in_a_file_are_refused(path: Path) -> None:
    days = np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[D]")
    classifier = CrossEntropyClassifier().fit([[0.0], [1.0]], days)
    assert (classifier.predict([[0.0], [1.0]]) == days).all()
    with pytest.raises(
        TypeError, match=re.escape("labels of dtype datetime64[D], such as datetime")
    ):
        model_file.save(classifier, path)
    assert os.listdir(path.parent) == []


# Files that are no models -----------------------------------------------------------------------


def parts(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the arrays of a good model file."""
    model_file.save(model(), path)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()[KEY])
        return header, {name: file.get_tensor(name) for name in file.keys()}


@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_a_file_cut_short(path: Path, left: int) -> None:
    model_file.save(model(), path)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"m\.crossent is no model file, or it was cut short"):
        model_file.load(path)


def test_a_file_of_another_version(path: Path) -> None:
    header, arrays = parts(path)
    header |= {"version": 7, "crossent": "9.1"}
    save_file(arrays, path, {KEY: json.dumps(header)})
    message = (
        r"m\.crossent has format version 7, of crossent 9\.1; this is crossent .*, which reads "
        "version 1$"
    )
    with pytest.raises(ValueError, match=message):
        model_file.load(path)


def test_a_safetensors_file_of_something_else(path: Path) -> None:
    save_file({"weight": np.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="is a safetensors file, but not one of a crossent model"):
        model_file.load(path)
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="is a safetensors file, but not one of a crossent model"):
        model_file.load(path)


def test_a_pickle_is_not_opened(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Trap(str(path.with_name("opened")))))
    with pytest.raises(ValueError, match="is no model file"):
        model_file.load(path)
    assert os.listdir(path.parent) == [path.name]


class _Trap:
    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.name),)


@pytest.mark.parametrize(
    "damage",
    [
        lambda header, arrays: header.pop("classes"),
        lambda header, arrays: header["options"].update(unknown=1),
        lambda header, arrays: header.update(options=[]),
        lambda header, arrays: header["columns"].pop("text"),
        lambda header, arrays: header["classes"].update(dtype="no dtype"),
        lambda header, arrays: arrays.update(intercept=np.zeros(5)),
        lambda header, arrays: arrays.update(coef=np.zeros(5)),
        lambda header, arrays: arrays.update(curvature=np.zeros((2, 2))),
        lambda header, arrays: header["state"].update(n_features_in_=7),
        lambda header, arrays: header["classes"]["labels"].append("another"),
        lambda header, arrays: header["columns"]["numbers"]["flagged"].append(True),
    ],
)
def test_a_header_that_does_not_fit(path: Path, damage: Any) -> None:
    header, arrays = parts(path)
    damage(header, arrays)
    save_file(arrays, path, {KEY: json.dumps(header)})
    with pytest.raises(ValueError, match="is damaged: its header does not fit its arrays"):
        model_file.load(path)


def test_an_array_that_is_missing(path: Path) -> None:
    header, arrays = parts(path)
    del arrays["scale"]
    save_file(arrays, path, {KEY: json.dumps(header)})
    with pytest.raises(ValueError, match="is no model file, or it was cut short"):
        model_file.load(path)


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"m\.crossent: there is no such file"):
        model_file.load(path)
