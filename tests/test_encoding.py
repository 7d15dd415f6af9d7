"""Columns as features: what scikit-learn makes of them, and the same from the record alone."""

from __future__ import annotations

import datetime
import json
import re
from decimal import Decimal
from functools import reduce
from itertools import pairwise, permutations
from operator import add
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from crossent import encoding
from crossent.encoding import Summary, TableEncoder, label_codes, label_counts, labels_of

NUMBERS = {
    "age": [31.0, None, 28.0, 55.0, 40.0, None],
    "income": [3.0, 4.0, 5.0, 1e6, 7.0, 8.0],
    "member": [True, False, True, True, False, True],
}
WORDS = {
    "colour": ["red", "blue", "red", None, "blue", None],
    "city": ["Bonn", "Ulm", "Ulm", "Kiel", "Bonn", "Ulm"],
}
TABLE = pa.table({**NUMBERS, **WORDS})

DAY = datetime.date(2020, 1, 1)


def by_scikit_learn(table: pa.Table, learnt: pa.Table) -> Any:
    """Return the features as scikit-learn makes them without any record."""

    def numbers(rows: pa.Table) -> Any:
        columns = [np.array(rows[name].to_pylist(), dtype=float) for name in NUMBERS]
        return np.column_stack(columns)

    def words(rows: pa.Table) -> Any:
        return np.column_stack([np.array(rows[name].to_pylist(), dtype=object) for name in WORDS])

    imputer = SimpleImputer(add_indicator=True).fit(numbers(learnt))
    scaler = StandardScaler().fit(imputer.transform(numbers(learnt)))
    categories = [np.array(each, object) for each in (["blue", "red", None], ["Bonn", "Ulm"])]
    one_hot = OneHotEncoder(categories=categories, handle_unknown="ignore").fit(words(learnt)[:3])
    parts = [scaler.transform(imputer.transform(numbers(table))), one_hot.transform(words(table))]
    return np.hstack([parts[0], parts[1].toarray()])


def test_features_are_those_of_scikit_learn() -> None:
    encoder = TableEncoder.fit(TABLE)
    assert encoder.transform(TABLE) == pytest.approx(by_scikit_learn(TABLE, TABLE), rel=1e-12)
    assert encoder.feature_names == [
        *NUMBERS,
        "age is missing",
        "colour = blue",
        "colour = red",
        "colour is missing",
        "city = Bonn",
        "city = Ulm",
    ]
    assert encoder.text_columns == list(WORDS)
    assert encoder.left_out == {}


def test_the_record_alone_gives_the_same_bits() -> None:
    encoder = TableEncoder.fit(TABLE)
    again = TableEncoder(json.loads(json.dumps(encoder.record)))
    fresh = pa.table(
        {
            "city": ["Rom", None, "Ulm"],
            "member": [None, False, True],
            "colour": ["green", "red", None],
            "age": [None, 1.0, 2.0],
            "income": [None, 0.0, 1.0],
            "more": [1, 2, 3],
        }
    )
    for table in (TABLE, fresh):
        assert (again.transform(table) == encoder.transform(table)).all()
    features = encoder.transform(fresh)
    assert features[0, encoder.feature_names.index("income")] == 0  # the mean, standardised
    assert features[:, encoder.feature_names.index("city = Bonn") :].tolist() == [[0, 0]] * 2 + [
        [0, 1]
    ]


def test_a_summary_of_parts_is_that_of_the_whole() -> None:
    random = np.random.default_rng(0)
    rows = 3000
    table = pa.table(
        {
            "far": random.normal(1.7e15, 1.0, rows),  # microseconds: all but the last digits alike
            "gaps": np.where(random.uniform(size=rows) < 0.3, np.nan, random.normal(size=rows)),
            "late": [None] * 2000 + [1.0] * 500 + [2.0] * 500,
            "word": random.choice([*"abc", None], rows),
            "once": [f"only {i}" for i in range(rows)],
            "constant": [3] * rows,
        }
    )
    cuts = [0, 1, 2, 1500, 2000, rows]
    parts = [table.slice(start, stop - start) for start, stop in pairwise(cuts)]
    whole = TableEncoder.fit(table)
    merged = TableEncoder.learnt(reduce(add, map(Summary.of, parts)))
    assert (
        merged.left_out
        == whole.left_out
        == {
            "once": "has another value in every row",
            "constant": "is 3 in every row",
        }
    )
    assert merged.record["text"] == whole.record["text"] == {"word": ["a", "b", "c", None]}
    assert merged.feature_names == whole.feature_names
    for name in ("fill", "mean", "scale"):
        once, again = whole.record["numbers"][name], merged.record["numbers"][name]
        assert again == pytest.approx(once, rel=1e-13)
    assert whole.record["numbers"]["scale"][0] == pytest.approx(1, rel=0.1)


def test_a_column_without_a_type_is_as_in_other_tables() -> None:
    tables = [
        pa.table({"n": pa.array([1.0, 2.0]), "w": pa.array(["a", "a"])}),
        pa.table({"n": pa.nulls(2), "w": pa.nulls(2)}),
        pa.table({"n": pa.array([3, None]), "w": pa.array(["b", "b"])}),
    ]
    for order in permutations(tables):
        encoder = TableEncoder.learnt(reduce(add, map(Summary.of, order)))
        assert encoder.feature_names == ["n", "n is missing", "w = a", "w = b", "w is missing"]
        assert encoder.record["numbers"]["fill"] == [2.0]
        for table in order:
            assert encoder.transform(table).shape == (2, 5)


def test_a_column_of_two_kinds_is_refused() -> None:
    words, numbers = pa.table({"a": ["x", "y"]}), pa.table({"a": [1.0, 2.0]})
    days = pa.table({"a": [DAY, DAY]})
    for pair in permutations((words, numbers, days), 2):
        one, other = map(Summary.of, pair)
        with pytest.raises(ValueError, match=r"column 'a' is \w+ in some tables and \w+ in others"):
            one + other


def test_dates_stay_dates_and_numbers_numbers() -> None:
    days = pa.table({"a": [DAY, datetime.date(2021, 2, 3)]})
    numbers, nothing = pa.table({"a": [1.0, 2.0]}), pa.table({"a": pa.nulls(2)})
    for learnt, other, said in ((days, numbers, "dates"), (numbers, days, "plain numbers")):
        encoder = TableEncoder.fit(learnt)
        with pytest.raises(ValueError, match=f"the model was fitted on {said} there"):
            encoder.transform(other)
        assert (encoder.transform(nothing) == 0).all()
        earlier = {
            name: each for name, each in encoder.record["numbers"].items() if name != "dates"
        }
        assert TableEncoder({"numbers": earlier, "text": {}}).transform(other).shape == (2, 1)


def test_more_different_words_than_can_be_counted_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "MOST_WORDS", 10)
    parts = [
        pa.table({"w": [f"w{i + 6 * j}" for i in range(6)] * 2, "x": range(12)}) for j in (0, 1)
    ]
    assert TableEncoder.learnt(Summary.of(parts[0])).left_out == {}
    for order in (parts, parts[::-1], [*parts, *parts]):
        left_out = TableEncoder.learnt(reduce(add, map(Summary.of, order))).left_out
        assert left_out == {"w": "has more than 10 different values"}


def test_parts_are_dense_or_sparse_as_the_whole_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "DENSE_BYTES", 8 * 6 * 9 - 1)
    encoder = TableEncoder.fit(TABLE)
    assert sparse.issparse(encoder.transform(TABLE))
    assert not sparse.issparse(encoder.transform(TABLE.slice(0, 3)))
    part = encoder.transform(TABLE.slice(0, 3), of_rows=6)
    assert (part.toarray() == encoder.transform(TABLE)[:3].toarray()).all()


def test_columns_of_no_use_are_left_out_and_named() -> None:
    table = pa.table(
        {
            "x": [1.0, 2.0, 3.0],
            "constant": [7, 7, 7],
            "same word": ["a", "a", "a"],
            "empty": pa.nulls(3),
            "no words": pa.array([None] * 3, pa.string()),
            "id": ["k1", "k2", "k3"],
            "": [0, 1, 2],
        }
    )
    encoder = TableEncoder.fit(table)
    assert encoder.feature_names == ["x"]
    assert encoder.left_out == {
        "constant": "is 7 in every row",
        "same word": "is 'a' in every row",
        "empty": "is empty",
        "no words": "is empty",
        "id": "has another value in every row",
        "": "has no name",
    }
    with pytest.raises(ValueError, match="no column is left to learn from: 'constant' is 7 in"):
        TableEncoder.fit(table.select(["constant", "id"]))
    with pytest.raises(ValueError, match="no column is left to learn from: there is none"):
        TableEncoder.fit(table.select([]))


def test_a_constant_with_gaps_teaches_by_its_gaps() -> None:
    encoder = TableEncoder.fit(pa.table({"a": [7.0, None, 7.0], "w": ["u", None, "u"]}))
    assert encoder.feature_names == ["a", "a is missing", "w = u"]


DATE, TIME = datetime.date(2024, 5, 17), datetime.time(12, 30)
NUMERIC_TYPES = [
    pa.array([1, 2, None], pa.int8()),
    pa.array([1, 2, 2**60], pa.uint64()),
    pa.array([1.5, None, 2.5], pa.float32()),
    pa.array([Decimal(1), None, Decimal(3)], pa.decimal128(10, 2)),
    pa.array([True, None, False]),
    pa.array([DATE, None, DATE.replace(year=2020)]),
    pa.array([datetime.datetime(2020, 1, 1), None, datetime.datetime(2021, 1, 1)]),
    pa.array([TIME, None, TIME.replace(hour=1)]),
    pa.array([datetime.timedelta(1), None, datetime.timedelta(2)]),
]


@pytest.mark.parametrize("column", NUMERIC_TYPES, ids=lambda column: str(column.type))
def test_every_kind_of_number_is_standardised(column: pa.Array) -> None:
    encoder = TableEncoder.fit(pa.table({"c": column}))
    features = encoder.transform(pa.table({"c": column}))
    assert features.mean(axis=0) == pytest.approx(np.zeros(features.shape[1]), abs=1e-9)
    assert features.std(axis=0) == pytest.approx(np.ones(features.shape[1]))


def test_dates_mean_the_same_in_every_unit() -> None:
    moments = [datetime.datetime(2020, 1, 1), datetime.datetime(2021, 1, 1)]
    encoder = TableEncoder.fit(pa.table({"t": pa.array(moments, pa.timestamp("ns"))}))
    for unit in (pa.timestamp("s"), pa.timestamp("ms", tz="UTC"), pa.date32()):
        table = pa.table({"t": pa.array(moments, pa.timestamp("s")).cast(unit)})
        assert encoder.transform(table).ravel().tolist() == [-1.0, 1.0]


def test_dictionaries_and_numbers_can_stand_for_text() -> None:
    encoder = TableEncoder.fit(pa.table({"c": ["1", "2", "1", "2"]}))
    expected = [[1, 0], [0, 1], [0, 0]]
    for column in (
        pa.array(["1", "2", "3"]).dictionary_encode(),
        pa.array(["1", "2", "3"], pa.large_string()),
        pa.array([1, 2, 3]),
    ):
        assert encoder.transform(pa.table({"c": column})).tolist() == expected


def test_many_words_make_sparse_features(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = TableEncoder.fit(TABLE).transform(TABLE)
    monkeypatch.setattr(encoding, "DENSE_BYTES", 100)
    rows = TableEncoder.fit(TABLE).transform(TABLE)
    assert sparse.issparse(rows)
    assert (rows.toarray() == dense).all()


BAD = [
    ({"b": [[1], [2]]}, "column 'b' has type list<"),
    ({"b": [b"x", b"y"]}, "column 'b' has type binary; numbers, dates, truth values and text"),
    ({"b": [1.0, -np.inf]}, "column 'b' holds -inf in row 1; it must be finite, at most 1e+100 in"),
    ({"b": [1.0, 2e200]}, "column 'b' holds 2e+200 in row 1; it must be finite, at most 1e+100 in"),
]


@pytest.mark.parametrize(("columns", "message"), BAD)
def test_columns_that_cannot_be_learnt_from(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TableEncoder.fit(pa.table(columns))


def test_a_table_must_have_the_columns_of_the_model() -> None:
    encoder = TableEncoder.fit(TABLE)
    message = (
        "the table has no column 'age', 'city', which the model needs; it has 'income', 'member"
    )
    with pytest.raises(ValueError, match=message):
        encoder.transform(TABLE.drop_columns(["age", "city"]))
    table = TABLE.drop_columns(["age"]).append_column("age", pa.array([None, *"abcde"]))
    message = "column 'age' is text, such as 'a'; the model was fitted on numbers there"
    with pytest.raises(ValueError, match=message):
        encoder.transform(table)


# Labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array(["a", "b"]), "O"),
        (pa.array(["a", "b"]).dictionary_encode(), "O"),
        (pa.array([3, -1], pa.int16()), "i"),
        (pa.array([True, False]), "b"),
        (pa.array([1.0, 2.0]), "f"),
    ],
)
def test_labels_keep_their_type(column: pa.Array, kind: str) -> None:
    table = pa.table({"y": pa.chunked_array([column, column.slice(1)])})
    assert label_counts(table, "y") == dict(zip(column.to_pylist(), (1, 2), strict=True))
    classes = np.array(sorted(column.to_pylist()), dtype=object if kind == "O" else None)
    assert (classes[label_codes(table, "y", classes)] == table["y"].to_pylist()).all()
    labels = labels_of(pa.table({"y": column}), "y")
    assert labels.dtype.kind == kind
    assert labels.tolist() == column.to_pylist()


def test_a_label_of_minus_zero_is_zero() -> None:
    assert label_counts(pa.table({"y": [0.0, -0.0, 1.0, 0.0]}), "y") == {0.0: 3, 1.0: 1}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a", None, "b", None], "column 'y' is the target and has no label in row 1 (and 1 more)"),
        ([1, None], "column 'y' is the target and has no label in row 1 (and 0 more)"),
        ([1.0, float("nan")], "column 'y' is the target and has no label in row 1"),
        ([1.0, 2.5], "column 'y' holds fractions, such as 2.5 in row 1: an amount, not a class"),
        ([1.0, 2.0**53], "column 'y' holds 9007199254740992.0 in row 1; floats from 2**53 on, "),
        ([[1], [2]], "column 'y' is the target and has type list<"),
        (
            [DAY, DAY],
            "column 'y' is the target and has type date32[day]; labels are text, integers",
        ),
    ],
)
def test_bad_labels(column: list[Any], message: str) -> None:
    for function in (labels_of, label_counts):
        with pytest.raises(ValueError, match=re.escape(message)):
            function(pa.table({"y": column}), "y")
    named = pa.table({"y": column}), "y", "row {} of t.csv".format
    if "row 1" in message:
        with pytest.raises(ValueError, match=re.escape(message.replace("row 1", "row 1 of t.csv"))):
            label_counts(*named)
