"""Rows that do not fit into memory: the same model from rows that are read again for every look."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import csv, parquet
from scipy import sparse

from crossent import encoding, model_file
from crossent.cli import data as tabular
from crossent.cli.group import commands
from crossent.distributed import ALONE
from crossent.sklearn import SEPARABLE, CrossEntropyClassifier
from stream_cases import SAME, Again, table, written

ROWS = 3000


def crossent(*arguments: Any) -> Result:
    return CliRunner().invoke(commands, [str(each) for each in arguments])


def coefficients(*arguments: Any) -> np.ndarray:
    """Return coefficients and biases of what `crossent fit` learns."""
    done = crossent("fit", *arguments, "--target", "y", "--out", "m.crossent")
    assert done.exit_code == 0, done.output
    classifier = model_file.load("m.crossent").classifier
    return np.column_stack([classifier.coef_, classifier.intercept_])


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tabular, "BATCH_ROWS", 700)
    monkeypatch.setattr(tabular, "BATCH_BYTES", 1)
    monkeypatch.setattr(tabular, "LEAST_ROWS", 450)


# The same answer --------------------------------------------------------------------------------

OPTIONS = [
    (),
    ("--class-weight", "balanced"),
    ("--loss", "sigmoid", "--l2", "0.01"),
    ("--valid", "0"),
    ("--loss", "softmax_binary", "--valid", "0.7", "--seed", "3", "--drop", "x1"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_streamed_is_in_memory(options: tuple[str, ...]) -> None:
    written("t.parquet", table(ROWS))
    kept = coefficients("t.parquet", *options)
    assert coefficients("t.parquet", "--stream", *options) == pytest.approx(kept, rel=SAME)


@pytest.mark.parametrize("suffix", ["csv", "feather"])
def test_other_formats_and_several_files(suffix: str) -> None:
    whole = table(ROWS)
    written("whole.parquet", whole)
    kept = coefficients("whole.parquet")
    for number, (start, stop) in enumerate([(0, 1), (1, 1100), (1100, ROWS)]):
        written(f"parts/{number}.{suffix}", whole.slice(start, stop - start))
    paths = [f"parts/{number}.{suffix}" for number in range(3)]
    for sources in (paths, ["parts"], [f"parts/*.{suffix}"]):
        assert coefficients(*sources, "--stream") == pytest.approx(kept, rel=SAME)
    assert coefficients(*paths) == pytest.approx(kept, rel=SAME)


def test_the_summary_is_the_same_too() -> None:
    written("t.parquet", table(ROWS))
    shown = [crossent("fit", "t.parquet", "--target", "y", *o).output for o in ([], ["--stream"])]
    kept, streamed = (text[text.index("validation rows") :] for text in shown)
    assert kept == streamed
    assert " valid " in shown[0]
    assert re.findall(r"train (\S+)", shown[0]) == re.findall(r"train (\S+)", shown[1])


def test_wide_text_makes_sparse_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "DENSE_BYTES", 1000)
    written("t.parquet", table(ROWS))
    kept = coefficients("t.parquet")
    assert coefficients("t.parquet", "--stream") == pytest.approx(kept, rel=SAME)


def test_whole_numbers_at_first_and_fractions_later() -> None:
    lines = [f"{i % 5},{'ab'[i % 5 > 1]}" for i in range(200_000)] + ["0.5,a"] * 10
    Path("t.csv").write_text("x,y\n" + "\n".join(lines) + "\n")
    kept = coefficients("t.csv")
    assert coefficients("t.csv", "--stream") == pytest.approx(kept, rel=SAME)


def test_separable_rows_are_told() -> None:
    written("t.parquet", pa.table({"x": np.arange(100.0), "y": ["a"] * 50 + ["b"] * 50}))
    for options in ((), ("--stream",)):
        shown = crossent("fit", "t.parquet", "--target", "y", "--l2", "0", *options).output
        assert SEPARABLE in shown
        assert "column 0 can tell classes apart" in shown


# Which rows are kept back -----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.77, 0.999])
def test_of_each_class_its_share_is_kept_back_whatever_the_batches(share: float) -> None:
    codes = np.random.default_rng(0).choice(4, 5000, p=[0.7, 0.2, 0.099, 0.001])
    counts = np.bincount(codes)
    written("t.parquet", pa.table({"x": np.arange(5000), "y": codes}))

    def kept(seed: int, batch_rows: int) -> list[int]:
        found = tabular.streamed(["t.parquet"], "y", ALONE)
        data = tabular.Data.of(found, "y", (), share, seed, ALONE)
        numbers = [chunk.numbers for chunk in data.to_check(batch_rows)]
        learnt = [chunk.numbers for chunk in data.to_learn(batch_rows)]
        assert sorted(np.concatenate([*numbers, *learnt])) == list(range(5000))
        return np.concatenate(numbers).tolist()

    rows = kept(0, 5000)
    expected = np.minimum(np.round(share * counts), counts - 1)
    assert np.bincount(codes[rows], minlength=4).tolist() == expected.tolist()
    assert kept(0, 77) == rows
    assert kept(1, 5000) != rows


def test_rows_kept_back_are_spread_like_chance() -> None:
    """No period: of every fifth row, as many are kept back as of all."""
    written("t.parquet", pa.table({"x": np.arange(50_000), "y": np.arange(50_000) % 2}))
    found = tabular.in_memory(["t.parquet"], ALONE)
    data = tabular.Data.of(found, "y", (), 0.2, 0, ALONE)
    rows = np.concatenate([chunk.numbers for chunk in data.to_check()])
    by_place = np.bincount(rows % 10, minlength=10)
    assert by_place == pytest.approx(np.full(10, 1000), abs=150)  # five deviations


# The estimator ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("options", [{}, {"standardize": True}, {"class_weight": {"b": 3.0}}])
def test_fit_batches_is_fit(form: Any, options: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    X = random.standard_normal((900, 5)) * [1, 2, 3, 4, 0.1] + 1
    codes = (X[:, :3] + random.gumbel(size=(900, 3))).argmax(axis=1)
    weight, classes = random.uniform(0, 2, 900), np.array(["a", "b", "c"])
    whole = CrossEntropyClassifier(**options).fit(form(X), classes[codes], weight)
    cuts = [slice(0, 7), slice(7, 8), slice(8, 8), slice(8, 500), slice(500, 900)]
    batches = [(form(X[i]), codes[i], weight[i]) for i in cuts]
    for given in (batches, Again(batches)):
        again = CrossEntropyClassifier(**options).fit_batches(given, classes)
        assert again.coef_ == pytest.approx(whole.coef_, rel=SAME)
        assert again.intercept_ == pytest.approx(whole.intercept_, rel=SAME)
        assert again.n_features_in_ == 5
        assert again.predict(form(X)).tolist() == whole.predict(form(X)).tolist()
        curvature = whole._memory.curvature
        assert again._memory.curvature == pytest.approx(curvature, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no row takes part"),
        ([(np.ones((2, 1)), [0, 1], [0, 0])], "no row takes part"),
        ([(np.ones((2, 1)), [0, 2])], r"labels\[1\] is 2; it must be in \[0, 1\]"),
        ([(np.ones((2, 1)), [0, 1]), (np.ones((2, 2)), [0, 1])], "a batch has 2 features; those"),
        ([(np.full((2, 1), np.nan), [0, 1])], "Input X contains NaN"),
        ([(np.ones((2, 1)), [0])], "inconsistent numbers of samples"),
    ],
)
def test_bad_batches(batches: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossEntropyClassifier().fit_batches(batches, ["a", "b"])


# Memory -----------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from crossent.cli import data
from crossent.cli.group import commands
data.BATCH_BYTES = 1 << 20
data.BATCH_ROWS = 8192
options = ["--target", "y", "--stream", "--max-iter", "1"]
commands(["fit", sys.argv[1], *options], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak(path: str) -> int:
    """Return the most memory that a streamed fit takes, in MB."""
    environment = {**os.environ, "CROSSENT_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", PEAK, path]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_memory_is_flat_however_long_the_file() -> None:
    short = table(20_000)
    written("short.parquet", short, 10_000)
    with parquet.ParquetWriter("long.parquet", short.schema) as writer:
        for _ in range(80):
            writer.write_table(short, 10_000)
    in_memory = 80 * short.nbytes >> 20
    assert in_memory > 60
    assert peak("long.parquet") - peak("short.parquet") < in_memory / 3


# Bad input --------------------------------------------------------------------------------------


def test_bad_tables_are_one_sentence_and_leave_what_was_there() -> None:
    good, other = table(500), pa.table({"x0": ["text"], "y": ["a"]})
    written("t.parquet", good)
    Path("empty").mkdir()
    Path("short.parquet").write_bytes(Path("t.parquet").read_bytes()[:-500])
    written("none.parquet", good.slice(0, 0))
    written("gap.parquet", good.set_column(0, "y", pa.array(["a", None] * 250)))
    bad = good.set_column(1, "x0", pa.array([1.0] * 300 + [np.inf] + [1.0] * 199))
    written("inf.parquet", bad, 200)
    written("other.parquet", other)
    Path("late.csv").write_text("x,y\n" + "1,a\n2,b\n" * 200_000 + "word,a\n")
    Path("m.crossent").write_text("earlier")
    for arguments, message in [
        (["empty"], "empty is a directory that holds no table"),
        (["short.parquet"], "short.parquet is no Parquet file that can be read: "),
        (["none.parquet"], "none.parquet has 6 columns but no rows"),
        (["gap.parquet"], "column 'y' is the target and has no label in row 1"),
        (["inf.parquet"], "column 'x0' holds inf in row 300 of inf.parquet; it must be finite"),
        (["t.parquet", "other.parquet"], "column 'x0' is double in t.parquet but string in other"),
        (["late.csv"], "late.csv is no CSV file that can be read: "),
        (["t.parquet", "--resume"], "--resume is given without --checkpoint DIR"),
    ]:
        before = sorted(map(str, Path().rglob("*")))
        arguments += ["--stream", "--target", "y", "--out", "m.crossent", "--valid", "0"]
        done = crossent("fit", *arguments)
        assert done.exit_code == 2, message
        assert done.stderr.startswith(f"crossent: {message}"), done.stderr
        assert done.stderr.count("\n") == 1
        assert sorted(map(str, Path().rglob("*"))) == before
        assert Path("m.crossent").read_text() == "earlier"


def test_too_many_labels_are_no_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MOST_WORDS", 100)
    csv.write_csv(pa.table({"x": np.arange(200), "y": np.arange(200)}), "t.csv")
    done = crossent("fit", "t.csv", "--target", "y", "--stream")
    assert done.exit_code == 2
    assert "column 'y' holds more than 100 different labels" in done.stderr
