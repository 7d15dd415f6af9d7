"""`crossent score` as somebody meets it who has predictions in files."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

import crossent as package
from crossent import predictions as reader
from crossent import tables
from crossent.cli.group import commands
from crossent.predictions import Predictions, score_parts
from crossent.scoring import Scoring

ROWS = 3000
NAMES = ("cat", "dog", "eel")
P = ("--target", "y", "--probabilities", "p_*")


def score(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, ["score", *map(str, arguments)])


def good(*arguments: str | Path) -> str:
    done = score(*arguments)
    assert done.exit_code == 0, done.stderr or done.exception
    return done.stdout


def found(*arguments: str | Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(good(*arguments, "--json"))
    return result


def sentence(*arguments: str | Path) -> str:
    done = score(*arguments)
    assert done.exit_code == 2, done.stdout
    assert done.stdout == ""
    assert done.stderr.startswith("crossent: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("crossent: ").strip()


def drawn(rows: int = ROWS, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, probabilities, and labels that are drawn from these."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((rows, 3)) * 2
    p = package.softmax(z)
    return z, p, (rng.random(rows)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(0, 2)


def table_of(values: np.ndarray, labels: Any, letter: str = "p", **more: Any) -> pa.Table:
    columns = {f"{letter}_{name}": values[:, j] for j, name in enumerate(NAMES)}
    return pa.table({**columns, "y": labels, **more})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a directory that holds predictions of both kinds."""
    monkeypatch.chdir(tmp_path)
    z, p, y = drawn()
    labels = np.array(NAMES)[y]
    parquet.write_table(table_of(p, labels), "p.parquet", row_group_size=700)
    parquet.write_table(table_of(z, labels, "z"), "z.parquet")


def expected(outputs: str = "probabilities") -> package.ScoreSums:
    z, p, y = drawn()
    return package.score_batches([(p if outputs == "probabilities" else z, y)], outputs)


# The numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", ["probabilities", "logits"])
def test_a_table_is_judged_like_its_arrays(outputs: str) -> None:
    letter = outputs[0].replace("l", "z")
    got = found(f"{letter}.parquet", "--target", "y", f"--{outputs}", f"{letter}_*")
    sums = expected(outputs)
    for name, value in {
        "nats": sums.loss,
        "bits": sums.loss / np.log(2),
        "perplexity": np.exp(sums.loss),
        "accuracy": sums.accuracy,
        "brier": sums.brier,
        "calibration_error": sums.calibration_error,
        "baseline_nats": sums.baseline,
    }.items():
        assert got[name] == pytest.approx(value, rel=1e-12), name
    assert got["top_accuracy"] == {"2": pytest.approx(sums.top_accuracy[1])}
    assert (got["rows_read"], got["rows"], got["ignored"], got["infinite"]) == (ROWS, ROWS, 0, 0)
    assert [each["label"] for each in got["classes"]] == list(NAMES)
    assert [each["nats"] for each in got["classes"]] == pytest.approx(sums.class_loss.tolist())
    assert got["rows_per_second"] == pytest.approx(ROWS / got["seconds"])
    assert sum(each["weight"] for each in got["reliability"]) == ROWS


def test_the_summary_says_what_was_asked_for() -> None:
    shown, sums = good("p.parquet", *P), expected()
    lines = {
        rf"^p\.parquet: {ROWS} rows read, 0 ignored, 0 infinite; \S+ rows per second$",
        rf"^cross-entropy +{sums.loss:.4f}  {sums.bits:.4f}$",
        rf"^always the class frequencies +{sums.baseline:.4f}  ",
        rf"^perplexity +{sums.perplexity:.4f}$",
        rf"^accuracy +{sums.accuracy:.4f}$",
        rf"^top-2 accuracy +{sums.top_accuracy[1]:.4f}$",
        rf"^expected calibration error +{sums.calibration_error:.4f}$",
        rf"^Brier score +{sums.brier:.4f}$",
        rf"^dog +{sums.class_rows[1]} +{sums.class_loss[1]:.4f} +{sums.class_accuracy[1]:.4f}$",
    }
    assert {line for line in lines if not re.search(line, shown, re.MULTILINE)} == set()
    assert "top-3" not in shown


@pytest.mark.parametrize("name", ["t.csv", "t.feather", "t.parquet"])
@pytest.mark.parametrize("batch_rows", [100, 100_000])
def test_every_format_and_any_batch(
    name: str, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MOST_ROWS", batch_rows)
    tables.write_table(tables.read_table("p.parquet"), Path(name))
    assert found(name, *P)["nats"] == pytest.approx(expected().loss, rel=1e-12)


def test_many_files_directories_and_patterns_are_one_table() -> None:
    table = tables.read_table("p.parquet")
    Path("run").mkdir()
    for i, suffix in enumerate(["csv", "parquet", "feather"]):
        tables.write_table(table.slice(i * 1000, 1000), Path(f"run/{i}.{suffix}"))
    for sources in (["run"], ["run/*"], ["run/0.csv", "run/1.parquet", "run/2.feather"]):
        got = found(*sources, *P)
        assert got["files"] == ["run/0.csv", "run/1.parquet", "run/2.feather"]
        assert got["rows"] == ROWS
        assert got["nats"] == pytest.approx(expected().loss, rel=1e-12)
    assert "3 files: 3000 rows read" in good("run", *P)


def test_parts_can_be_scored_apart_in_any_order() -> None:
    table = tables.read_table("p.parquet").to_pydict()
    for name in NAMES:
        table[f"p_{name}"][2500] = float(name == "cat")
    table["y"][2500] = "eel"
    parquet.write_table(pa.table(table), "q.parquet", row_group_size=700)
    parts = tables.parts(["p.parquet", "q.parquet"])
    columns, rule = (
        Predictions.found_in(parts, "probabilities", "p_*", "y"),
        Scoring("probabilities"),
    )
    whole = score_parts(parts, columns, rule)
    assert len(parts) == 10
    assert whole.infinite_rows == ((1, 2500),)
    ranks = [score_parts(parts[rank::4], columns, rule) for rank in range(4)]
    ranks.append(score_parts([], columns, rule))  # with no rows
    total = sum(reversed(ranks))
    finite = np.isfinite(whole.values)
    np.testing.assert_allclose(total.values[finite], whole.values[finite], rtol=1e-12)
    assert total.infinite_rows == whole.infinite_rows


def test_integers_and_narrow_types_hold_probabilities_too() -> None:
    certain = pa.table({"p_a": [1, 0, 1], "p_b": [0, 1, 0], "y": ["a", "b", "b"]})
    parquet.write_table(certain, "t.parquet")
    got = found("t.parquet", *P)
    assert (got["nats"], got["bits"], got["infinite"]) == (None, None, 1)
    _, p, y = drawn()
    parquet.write_table(table_of(p.astype(np.float16), np.array(NAMES)[y]), "half.parquet")
    assert found("half.parquet", *P)["nats"] == pytest.approx(expected().loss, rel=1e-3)


def test_a_column_of_lists() -> None:
    _, p, y = drawn()
    lists = pa.FixedSizeListArray.from_arrays(pa.array(p.reshape(-1), pa.float32()), 3)
    parquet.write_table(pa.table({"p": lists, "y": y}), "t.parquet")
    got = found("t.parquet", "--target", "y", "--probabilities", "p")
    assert got["nats"] == pytest.approx(expected().loss, rel=1e-6)
    assert [each["label"] for each in got["classes"]] == ["0", "1", "2"]
    named = pa.table({"p": lists, "y": np.array(NAMES)[y]})
    tables.write_table(named, Path("t.feather"))
    again = found("t.feather", "--target", "y", "--probabilities", "p", "--labels", "cat,dog,eel")
    assert again["nats"] == got["nats"]
    gap = pa.table({"p": pa.array([[0.5, 0.5], None], pa.list_(pa.float32(), 2)), "y": [0, 1]})
    parquet.write_table(gap, "t.parquet")
    said = sentence("t.parquet", "--target", "y", "--probabilities", "p")
    assert said == "'p' of row 1 of t.parquet is nan; a probability must be in [0, 1]"


def test_one_column_is_the_second_of_two_classes() -> None:
    z = np.array([-1.0, 0.5, 2.0, -3.0])
    p, y = 1 / (1 + np.exp(-z)), [0, 1, 1, 0]
    labels = np.array(["ham", "spam"])[y]
    parquet.write_table(pa.table({"p": p, "z": z, "y": y, "is": labels}), "t.parquet")
    loss = -np.log(np.where(y, p, 1 - p)).mean()
    for option, column in (("--probabilities", "p"), ("--logits", "z")):
        plain = ("t.parquet", "--target", "y", option, column)
        named = ("t.parquet", "--target", "is", option, column, "--labels", "ham,spam")
        for arguments in (plain, named):
            assert found(*arguments)["nats"] == pytest.approx(loss, rel=1e-12)
        turned = found(*named[:-1], "spam,ham")["nats"]
        assert turned == pytest.approx(-np.log(np.where(y, 1 - p, p)).mean())


# Side by side ------------------------------------------------------------------------------------


def side_by_side(set_threads: Callable[[int], None], **options: Any) -> package.ScoreSums:
    """Score p.parquet, of five row groups, by two threads; none of them may be left."""
    parts = tables.parts(["p.parquet"])
    columns = Predictions.found_in(parts, "probabilities", "p_*", "y")
    set_threads(2)
    try:
        return score_parts(parts, columns, Scoring("probabilities"), **options)
    finally:
        names = [thread.name for thread in threading.enumerate()]
        assert [name for name in names if name.startswith("crossent-part")] == []


def reading(monkeypatch: pytest.MonkeyPatch, groups: dict[int, Callable[..., Any]]) -> None:
    """Let some row groups be read as the functions do: their arguments are those of `batches`."""
    real = tables.batches

    def batches(parts: list[tables.Part], *rest: Any) -> Iterator[tables.Batch]:
        read = groups.get(parts[0].group or 0, real)
        yield from read(parts, *rest)

    monkeypatch.setattr(tables, "batches", batches)


def test_parts_side_by_side_give_the_same_bits(set_threads: Callable[[int], None]) -> None:
    parts = tables.parts(["p.parquet"])
    columns = Predictions.found_in(parts, "probabilities", "p_*", "y")
    found = []
    for count in (1, 2, 3, 20):
        set_threads(count)
        found.append(score_parts(parts, columns, Scoring("probabilities")).values.tobytes())
    assert len(set(found)) == 1


def test_two_parts_are_read_side_by_side(
    monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    both, real = threading.Barrier(2, timeout=10), tables.batches

    def together(*arguments: Any) -> Iterator[tables.Batch]:
        both.wait()
        return real(*arguments)

    reading(monkeypatch, {0: together, 1: together})
    assert side_by_side(set_threads).rows == ROWS


def test_what_is_wrong_first_is_said_even_if_it_is_found_last(
    monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    second = threading.Event()

    def found_last(*_: Any) -> Iterator[tables.Batch]:
        assert second.wait(10)
        raise ValueError("the first part")

    def found_first(*_: Any) -> Iterator[tables.Batch]:
        second.set()
        raise ValueError("the second part")

    reading(monkeypatch, {0: found_last, 1: found_first})
    with pytest.raises(ValueError, match=r"^the first part$"):
        side_by_side(set_threads)


def test_an_error_stops_the_parts_behind_it(
    monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    begun, real, rounds = threading.Event(), tables.batches, []

    def bad(*_: Any) -> Iterator[tables.Batch]:
        assert begun.wait(10)
        raise ValueError("a bad row")

    def long(*arguments: Any) -> Iterator[tables.Batch]:
        while len(rounds) < 20_000:
            rounds.append(begun.set())
            yield from real(*arguments)

    reading(monkeypatch, {0: bad, 1: long})
    with pytest.raises(ValueError, match=r"^a bad row$"):
        side_by_side(set_threads)
    assert len(rounds) < 20_000


def test_an_interrupt_leaves_no_thread(set_threads: Callable[[int], None]) -> None:
    def watch(batch: tables.Batch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(set_threads, watch=watch)


def test_every_batch_is_watched_once(set_threads: Callable[[int], None]) -> None:
    rows = []
    side_by_side(set_threads, watch=lambda batch: rows.append((batch.start, batch.data.num_rows)))
    assert sorted(rows) == [(start, min(700, ROWS - start)) for start in range(0, ROWS, 700)]


# Labels -----------------------------------------------------------------------------------------

DAYS = [datetime.date(2024, 1, day) for day in (1, 2, 3)]
LABELS: list[tuple[list[str], pa.Array]] = [
    (["1", "2", "10"], pa.array([10, 1, 2])),
    (["1", "2", "10"], pa.array([10, 1, 2], pa.uint8())),
    (["1", "2", "10"], pa.array([10.0, 1.0, 2.0])),
    (["1", "2", "10"], pa.array(["10", "01", "2.0"])),
    (["-1", "0", "1000000"], pa.array([1_000_000, -1, 0])),
    (["01", "1", "2"], pa.array(["2", "01", "1"])),
    (["1.0", "2.0", "10.0"], pa.array([10, 1, 2])),
    (["True", "False", "x"], pa.array(["x", "true", "False"])),
    (["a", "b", "c"], pa.array(["c", "a", "b"]).dictionary_encode()),
    (["a", "b", "c"], pa.array(["c", "a", "b"], pa.large_string())),
    ([str(day) for day in DAYS], pa.array([DAYS[2], DAYS[0], DAYS[1]])),
    (["0.5", "1.5", "2.5"], pa.array([2.5, 0.5, 1.5])),
]


@pytest.mark.parametrize(("names", "labels"), LABELS, ids=[str(row[1].type) for row in LABELS])
def test_labels_of_any_type_find_their_column(names: list[str], labels: pa.Array) -> None:
    p = np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.3, 0.6, 0.1]])
    columns = {f"<{name}>": p[:, j] for j, name in enumerate(names)}
    parquet.write_table(pa.table({"y": labels, **columns}), "t.parquet")
    got = found("t.parquet", "--target", "y", "--probabilities", "<*>")
    assert got["nats"] == pytest.approx(-np.log([0.7, 0.8, 0.6]).mean())
    assert [each["label"] for each in got["classes"]] == names


def test_truth_values_and_labels_of_csv() -> None:
    p = {"p_False": [0.25, 0.5], "p_True": [0.75, 0.5], "y": [True, False]}
    for path in (Path("t.parquet"), Path("t.csv"), Path("t.feather")):
        tables.write_table(pa.table(p), path)
        assert found(path, *P)["nats"] == pytest.approx(-np.log([0.75, 0.5]).mean())
    Path("t.csv").write_text("p_01,p_2,y\n1,0,01\n0.5,0.5,2\n")
    assert found("t.csv", *P)["nats"] == pytest.approx(np.log(2) / 2)


def test_labels_that_only_their_letters_tell_apart() -> None:
    for numbers in (pa.array([1, 1]), pa.array(["1", "1"])):
        parquet.write_table(
            pa.table({"p_1": [0.7] * 2, "p_01": [0.3] * 2, "y": numbers}), "t.parquet"
        )
        assert found("t.parquet", *P, "--labels", "1,01")["nats"] == pytest.approx(-np.log(0.7))


def test_a_column_may_be_named_twice() -> None:
    parquet.write_table(pa.table({"p": [0.25, 0.5], "y": [1, 1]}), "t.parquet")
    named = ("--target", "y", "--probabilities", "p", "--weight", "y")
    assert found("t.parquet", *named)["rows"] == 2


def test_labels_name_columns_in_order_and_may_be_rare() -> None:
    parquet.write_table(tables.read_table("p.parquet").slice(0, 1), "t.parquet")
    said = sentence("t.parquet", *P)
    rest = (
        "which no row has (and 1 more columns); if that is right, name all labels in the order of"
    )
    assert re.search(rf"^column 'p_\w+' is for the label '\w+', {re.escape(rest)}", said)
    assert found("t.parquet", *P, "--labels", "cat,dog,eel")["rows"] == 1
    renamed = found("p.parquet", *P, "--labels", "dog,cat,eel")
    _, p, y = drawn()
    assert renamed["nats"] == pytest.approx(
        package.score_batches([(p[:, [1, 0, 2]], y)], "probabilities").loss
    )


# Options ----------------------------------------------------------------------------------------


def test_weights_and_missing_labels() -> None:
    _, p, y = drawn()
    w = np.random.default_rng(3).integers(0, 3, ROWS).astype(np.int8)
    labels = [None if i % 10 == 0 else NAMES[k] for i, k in enumerate(y)]
    table = table_of(p, labels, w=w)
    for path in (Path("t.parquet"), Path("t.csv")):
        tables.write_table(table, path)
        first = int(np.flatnonzero((w > 0) & (np.arange(ROWS) % 10 == 0))[0])
        said = f"row {first} of {path} has no label; ignore_missing leaves such rows out"
        assert sentence(path, *P, "--weight", "w") == said
        got = found(path, *P, "--weight", "w", "--ignore-missing")
        part = w * (np.arange(ROWS) % 10 != 0)
        sums = package.score_batches([(p, y, part)], "probabilities")
        assert got["nats"] == pytest.approx(sums.loss, rel=1e-12)
        assert (got["rows_read"], got["ignored"]) == (ROWS, (part == 0).sum())
    assert "rows are weighted by 'w'" in good("t.csv", *P, "--weight", "w", "--ignore-missing")


def test_infinite_rows_are_named_and_clip_is_stated() -> None:
    p = np.array([[1.0, 0.0, 0.0], [0.5, 0.25, 0.25], [0.0, 0.0, 1.0]] * 300)
    labels = ["dog", "cat", "eel"] * 300
    parquet.write_table(table_of(p, labels), "t.parquet", row_group_size=100)
    shown = good("t.parquet", *P)
    places = ", ".join(f"row {row} of t.parquet" for row in range(0, 30, 3))
    assert f"what happened had probability 0: {places} and 290 more (the first row is 0" in shown
    assert re.search(r"^cross-entropy +inf +inf$", shown, re.MULTILINE)
    got = found("t.parquet", *P)
    assert (got["nats"], got["infinite"]) == (None, 300)
    assert got["infinite_rows"][1] == {"file": "t.parquet", "row": 3}
    clipped = good("t.parquet", *P, "--clip", "1e-6")
    assert "a probability below 1e-06 costs as much as 1e-06" in clipped
    loss = (300 * -np.log(1e-6) + 300 * np.log(2)) / 900
    assert re.search(rf"^cross-entropy +{loss:.4f} ", clipped, re.MULTILINE)


def test_rows_that_do_not_sum_to_one() -> None:
    _, p, y = drawn()
    p = p * np.random.default_rng(1).uniform(0.5, 2, (ROWS, 1))
    parquet.write_table(table_of(p, np.array(NAMES)[y]), "t.parquet")
    assert re.fullmatch(
        r"the probabilities of row 0 of t\.parquet sum to \S+; they must sum to 1 \(to 0\.0001\) "
        "unless renormalize is set",
        sentence("t.parquet", *P),
    )
    assert found("t.parquet", *P, "--renormalize")["nats"] == pytest.approx(expected().loss)
    assert "probabilities were divided by their sum" in good("t.parquet", *P, "--renormalize")


def test_top_and_bins_are_chosen() -> None:
    got = found("p.parquet", *P, "--top", "1", "--bins", "3")
    assert got["top_accuracy"] == {}
    assert len(got["reliability"]) <= 3


def test_the_report_is_one_page_with_two_pictures() -> None:
    table = tables.read_table("p.parquet").rename_columns(["p_<b>", "p_dog", "p_eel", "y"])
    labels = ["<b>" if each == "cat" else each for each in table["y"].to_pylist()]
    parquet.write_table(table.set_column(3, "y", [labels]), "t.parquet")
    shown = good("t.parquet", *P, "--report", "r.html", "--clip", "1e-9")
    assert "Wrote r.html" in shown
    text = Path("r.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert not re.search(r"<(script|link|img|iframe)|https?://(?!www\.w3\.org)", text)
    assert "<b>" not in text.replace("<div><b>", "")
    for words in (
        f"{expected().loss:.4f}",
        "Is the confidence right?",
        "Loss by class, in nats",
        "&lt;b&gt;",
        "a probability below 1e-09 costs as much as 1e-09",
    ):
        assert words in text, words


def test_the_report_can_show_infinite_losses_and_many_classes() -> None:
    p = np.full((200, 40), 0.025)
    p[0] = np.eye(40)[1]
    columns = {f"p_{j}": p[:, j] for j in range(40)}
    parquet.write_table(pa.table({**columns, "y": np.arange(200) % 40}), "t.parquet")
    shown = good("t.parquet", *P, "--report", "r.html")
    assert "the 30 classes of 40 that cost most" in shown
    text = Path("r.html").read_text(encoding="utf-8")
    assert "the 30 classes of 40 that cost most" in text
    assert "infinite, as what happened had probability 0: row 0 of t.parquet" in text


def test_a_bar_on_a_terminal_says_rate_and_time_left() -> None:
    import pty

    main, end = pty.openpty()
    line = [sys.executable, "-m", "crossent", "score", "p.parquet", *P]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=end, env=environment, timeout=60)
    os.close(end)
    assert done.returncode == 0
    printed = done.stdout.decode()
    shown = b""
    try:
        while piece := os.read(main, 65536):
            shown += piece
    except OSError:  # the other end is closed
        pass
    os.close(main)
    assert re.search(rb"100%.*3,000 rows, [\d,]+ per second.*\d:\d\d", shown)
    assert "per second" in printed
    assert "100%" not in printed


# Bad input --------------------------------------------------------------------------------------


def change(column: str, row: int, value: object, name: str = "t.parquet") -> None:
    table = tables.read_table("p.parquet").to_pydict()
    table[column][row] = value
    parquet.write_table(pa.table(table), name, row_group_size=700)


def test_a_probability_that_is_none_is_named() -> None:
    for value, shown in ((float("nan"), "nan"), (None, "nan"), (1.5, "1.5"), (-0.5, "-0.5")):
        change("p_dog", 2100, value)
        said = f"'p_dog' of row 2100 of t.parquet is {shown}; a probability must be in [0, 1]"
        assert sentence("t.parquet", *P) == said
    z = tables.read_table("z.parquet").to_pydict()
    z["z_eel"][9] = float("nan")
    parquet.write_table(pa.table(z), "t.parquet")
    said = sentence("t.parquet", "--target", "y", "--logits", "z_*")
    assert said.startswith("the logits of row 9 of t.parquet have no softmax: [")


def test_labels_without_a_column_and_columns_without_a_label() -> None:
    change("y", 1500, "ship")
    said = "the label of row 1500 of t.parquet is 'ship'; it must be one of 'cat', 'dog', 'eel'"
    assert sentence("t.parquet", *P) == said
    table = tables.read_table("p.parquet")
    parquet.write_table(table.append_column("p_fox", [np.zeros(ROWS)]), "t.parquet")
    assert sentence("t.parquet", *P).startswith("column 'p_fox' is for the label 'fox', which no")
    parquet.write_table(table.append_column("p_", [np.zeros(ROWS)]), "t.parquet")
    assert sentence("t.parquet", *P) == "column 'p_' fits 'p_*', but names no label"
    parquet.write_table(table.append_column("p_fox", [["x"] * ROWS]), "t.parquet")
    assert sentence("t.parquet", *P).startswith("column 'p_fox' of t.parquet is string; it must")


def test_mixed_schemas_name_two_files_and_the_column() -> None:
    table = tables.read_table("p.parquet")
    parquet.write_table(table.drop_columns(["p_eel"]), "less.parquet")
    parquet.write_table(table.append_column("p_fox", [np.zeros(ROWS)]), "more.parquet")
    parquet.write_table(table.set_column(1, "p_dog", [["0.5"] * ROWS]), "text.parquet")
    parquet.write_table(table.rename_columns([*table.column_names[:-1], "x"]), "other.parquet")
    parquet.write_table(table.append_column("note", [["free"] * ROWS]), "note.parquet")
    for name, said in {
        "less": "less.parquet has no column 'p_eel', which p.parquet has",
        "more": "p.parquet has no column 'p_fox', which more.parquet has",
        "text": "column 'p_dog' is double in p.parquet but string in text.parquet",
        "other": "other.parquet has no column 'y', which p.parquet has",
    }.items():
        assert sentence("p.parquet", f"{name}.parquet", *P) == said
    assert found("p.parquet", "note.parquet", *P)["rows"] == 2 * ROWS


def test_files_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    assert sentence("empty", *P) == "empty is a directory that holds no table"
    assert sentence("no.parquet", *P) == "no.parquet: there is no such file"
    assert sentence("p.parquet", "p.parquet", *P).endswith(
        "is given 2 times; its rows would count as often"
    )
    content = Path("p.parquet").read_bytes()
    Path("short.parquet").write_bytes(content[: len(content) // 2])
    said = sentence("p.parquet", "short.parquet", *P)
    assert said.startswith("short.parquet is no Parquet file that can be read: ")
    torn = bytearray(content)
    torn[2000:30000] = bytes(28000)
    Path("torn.parquet").write_bytes(torn)
    assert sentence("torn.parquet", *P).startswith("torn.parquet is no Parquet file that can be")
    monkeypatch.setattr(tables, "BLOCK", 4096)
    Path("t.csv").write_text("p_a,p_b,y\n" + "0.5,0.5,a\n" * 2000 + "x,0.5,b\n")
    said = sentence("t.csv", *P)
    assert said.startswith("t.csv is no CSV file that can be read: ")
    assert "'x'" in said
    parquet.write_table(tables.read_table("p.parquet").slice(0, 0), "t.parquet")
    assert sentence("t.parquet", *P) == "t.parquet has no row that takes part; 0 are ignored"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "y"], "give --probabilities or --logits, one of them: what columns hold is"),
        ([*P, "--logits", "z_*"], "give --probabilities or --logits, one of them: what columns"),
        (["--target", "Y", *P[2:]], "target is 'Y'; p.parquet has no such column but 'p_cat', "),
        ([*P, "--weight", "w"], "weight is 'w'; p.parquet has no such column but 'p_cat', 'p_d"),
        ([*P[:3], "q_*"], "probabilities is 'q_*'; p.parquet has no such column but 'p_cat', "),
        ([*P[:3], "q"], "probabilities is 'q'; p.parquet has no such column but 'p_cat', 'p_d"),
        ([*P[:3], "*_*"], "probabilities is '*_*'; it must hold one *, or none"),
        ([*P, "--labels", "cat,dog"], "2 labels are given, 'cat', 'dog', but the columns are for"),
        ([*P, "--labels", "cat,dog,dog"], "the label 'dog' is given twice"),
        ([*P[:2], "--logits", "p_*", "--renormalize"], "renormalize is set, but logits have a"),
        ([*P, "--report", "no/r.html"], "no/r.html cannot be written: there is no directory no"),
        ([*P, "--weight", "p_cat"], "the probabilities of row 0 of p.parquet sum to "),
    ],
)
def test_bad_arguments_are_one_sentence(arguments: list[str], said: str) -> None:
    assert sentence("p.parquet", *arguments).startswith(said)


def test_a_bad_weight_is_named() -> None:
    for value in (-1.0, float("nan"), None):
        weights = [1.0] * ROWS
        weights[2000] = value
        table = tables.read_table("p.parquet").append_column("w", [pa.array(weights)])
        parquet.write_table(table, "t.parquet")
        said = sentence("t.parquet", *P, "--weight", "w")
        assert re.match(r"'w' of row 2000 of t\.parquet is (-1\.0|nan); a weight must be fin", said)


def test_after_a_bad_row_an_earlier_report_is_as_it_was() -> None:
    good("p.parquet", *P, "--report", "r.html")
    before = Path("r.html").read_bytes()
    change("p_dog", 2999, 7.0)
    files = sorted(os.listdir())
    sentence("t.parquet", *P, "--report", "r.html")
    assert Path("r.html").read_bytes() == before
    assert sorted(os.listdir()) == files


def test_a_disk_that_fills_leaves_an_earlier_report(monkeypatch: pytest.MonkeyPatch) -> None:
    good("p.parquet", *P, "--report", "r.html")
    before, files = Path("r.html").read_bytes(), sorted(os.listdir())

    def full(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    assert sentence("p.parquet", *P, "--report", "r.html") == (
        "r.html cannot be written: No space left on device"
    )
    assert Path("r.html").read_bytes() == before
    assert sorted(os.listdir()) == files


@pytest.mark.parametrize("form", [["--json"], []])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output_that_is_full_is_one_sentence(form: list[str], unbuffered: str) -> None:
    line = [sys.executable, "-m", "crossent", "score", "p.parquet", *P, *form]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            line, stdout=full, stderr=subprocess.PIPE, env=env, text=True, timeout=60
        )
    assert done.returncode == 2
    assert done.stderr == "crossent: No space left on device\n"
