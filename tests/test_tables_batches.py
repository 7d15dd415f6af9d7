"""Tables read batch by batch: every row once, in order, in any format; bad files named."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet

from crossent import tables

ROWS = 1000
TABLE = pa.table(
    {
        "n": np.arange(ROWS),
        "x": np.arange(ROWS) / 8,
        "word": [f"w{i % 7}" for i in range(ROWS)],
    }
)


def written(folder: Path, name: str, table: pa.Table = TABLE) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=300)
    else:
        feather.write_feather(table, str(path), chunksize=400)
    return path


NAMES = ["t.csv", "t.parquet", "t.feather"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_rows", [64, 300, 5000])
def test_every_row_comes_once_in_order_and_knows_its_number(
    name: str, batch_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK", 4096)
    path = written(tmp_path, name)
    found = list(tables.batches(tables.parts([path]), ["word", "n"], batch_rows))
    assert all(0 < batch.data.num_rows <= batch_rows for batch in found)
    assert len(found) > 3 or batch_rows > 64
    assert {batch.data.schema.names == ["word", "n"] for batch in found} == {True}
    whole = pa.Table.from_batches([batch.data for batch in found])
    assert whole.equals(TABLE.select(["word", "n"]))
    for batch in found:
        assert batch.data["n"][0].as_py() == batch.start
        assert batch.row(1) == f"row {batch.start + 1} of {path}"


@pytest.mark.parametrize("name", [*NAMES, "t.csv.gz"])
def test_progress_goes_from_part_to_part(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK", 1024)
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(written(tmp_path, "u.csv").read_bytes()))
    else:
        written(tmp_path, name)
    parts = tables.parts([tmp_path / name])
    assert sum(part.size for part in parts) == pytest.approx(path.stat().st_size, abs=4)
    done = [(batch.start, batch.done) for batch in tables.batches(parts, batch_rows=100)]
    ends = [max(share for start, share in done if start >= part.start) for part in parts]
    assert ends == [1.0] * len(parts)
    shares = [share for start, share in done if start < (parts[0].rows or ROWS)]
    assert shares == sorted(shares)
    assert shares[0] < 0.5 or "csv" in name  # whose reader reads ahead


@pytest.mark.parametrize("name", NAMES)
def test_all_columns_by_default(name: str, tmp_path: Path) -> None:
    batch = next(tables.batches(tables.parts([written(tmp_path, name)])))
    assert batch.data.schema.names == TABLE.column_names


def test_row_groups_are_parts_of_their_own(tmp_path: Path) -> None:
    parts = tables.parts([written(tmp_path, "t.parquet")])
    assert [(part.group, part.start, part.rows) for part in parts] == [
        (0, 0, 300),
        (1, 300, 300),
        (2, 600, 300),
        (3, 900, 100),
    ]
    found = list(tables.batches([parts[3], parts[1]], ["n"], 200))
    assert [(batch.start, batch.data["n"][0].as_py(), batch.data.num_rows) for batch in found] == [
        (900, 900, 100),
        (300, 300, 200),
        (500, 500, 100),
    ]


def test_files_of_other_formats_are_one_part(tmp_path: Path) -> None:
    feather_part, csv_part = tables.parts(
        [written(tmp_path, "t.feather"), written(tmp_path, "t.csv")]
    )
    assert (feather_part.group, feather_part.rows) == (None, ROWS)
    assert (csv_part.group, csv_part.rows) == (None, None)
    assert csv_part.schema.types == [pa.int64(), pa.float64(), pa.string()]


def test_directories_patterns_and_their_order(tmp_path: Path) -> None:
    names = ["run/b/2.parquet", "run/a/1.parquet", "run/c.csv"]
    for name in [*names, "run/_temporary/0/3.parquet", "run/.hidden.csv", "run/notes.txt"]:
        written(tmp_path, name) if not name.endswith("txt") else (tmp_path / name).write_text("")

    def found(source: str) -> list[str]:
        parts = tables.parts([tmp_path / source])
        return list(dict.fromkeys(str(part.path.relative_to(tmp_path)) for part in parts))

    assert [part.file for part in tables.parts([tmp_path / "run"])] == [0] * 4 + [1] * 4 + [2]
    assert found("run") == ["run/a/1.parquet", "run/b/2.parquet", "run/c.csv"]
    assert found("run/*/*.parquet") == ["run/a/1.parquet", "run/b/2.parquet"]
    assert found("run/**/2.*") == ["run/b/2.parquet"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    path = written(tmp_path, "t[1].parquet")
    assert tables.parts([path])[0].path == path


def test_columns_whose_names_begin_alike_are_told_apart(tmp_path: Path) -> None:
    table = pa.table({"p_1": [0.5], "p_1.0": [0.25], "p": [0.1]})
    path = written(tmp_path, "t.parquet", table)
    (batch,) = tables.batches(tables.parts([path]), ["p", "p_1"])
    assert batch.data.to_pydict() == {"p": [0.1], "p_1": [0.5]}


def test_types_of_csv_columns_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("code,x\n01,1\n2b,2.5\n")
    types = {"code": pa.string(), "x": pa.float64()}
    (part,) = tables.parts([path], types)
    assert part.schema.types == [pa.string(), pa.float64()]
    (batch,) = tables.batches([part], column_types=types)
    assert batch.data.to_pydict() == {"code": ["01", "2b"], "x": [1.0, 2.5]}


def test_a_csv_row_may_be_longer_than_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK", 256)
    path = tmp_path / "t.csv"
    wide = ",".join(f"c{j}" for j in range(200)) + "\n" + ",".join(["0.123456"] * 200) + "\n"
    path.write_text(wide)
    (batch,) = tables.batches(tables.parts([path]))
    assert (batch.data.num_rows, batch.data.num_columns) == (1, 200)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_without_rows_is_a_part_without_batches(name: str, tmp_path: Path) -> None:
    parts = tables.parts([written(tmp_path, name, TABLE.slice(0, 0))])
    assert parts[0].schema.names == TABLE.column_names
    assert list(tables.batches(parts)) == []


# Schemas ----------------------------------------------------------------------------------------


def schemas(folder: Path, *all_columns: dict[str, pa.Array]) -> list[tables.Part]:
    paths = [written(folder, f"{i}.parquet", pa.table(c)) for i, c in enumerate(all_columns)]
    return tables.parts(paths)


def test_numbers_are_like_numbers_and_text_like_text(tmp_path: Path) -> None:
    alike = schemas(
        tmp_path,
        {"a": pa.array([1]), "b": pa.array(["x"])},
        {"b": pa.array(["x"]).dictionary_encode(), "a": pa.array([1.5], pa.float32())},
        {"a": pa.nulls(1), "b": pa.array(["x"], pa.large_string())},
    )
    assert tables.common_schema(alike).names == ["a", "b"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": [1]}, "1.parquet has no column 'b', which 0.parquet has"),
        ({"a": [1], "b": ["x"], "c": [1]}, "0.parquet has no column 'c', which 1.parquet has"),
        ({"a": ["1"], "b": ["x"]}, "column 'a' is int64 in 0.parquet but string in 1.parquet"),
    ],
)
def test_mixed_schemas_name_two_files_and_the_column(
    other: dict[str, list[object]],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    mixed = schemas(Path(), {"a": [1], "b": ["x"]}, other)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tables.common_schema(mixed)
    assert tables.common_schema(mixed, []).names == ["a", "b"]


# Bad files --------------------------------------------------------------------------------------


def test_no_table_no_file_and_one_file_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty/readme.txt").write_text("")
    written(Path(), "t.csv")
    for sources, message in [
        (["empty"], "empty is a directory that holds no table"),
        (["no/*.csv"], "no/*.csv: no file has such a name"),
        (["no.csv"], "no.csv: there is no such file"),
        (["iris"], "iris cannot be read: the suffix must be one of .csv, .tsv, .parquet, .pq, "),
        (["t.csv", "./t.csv"], f"{tmp_path / 't.csv'} is given 2 times; its rows would count as"),
    ]:
        with pytest.raises((ValueError, OSError), match=f"^{re.escape(message)}"):
            tables.parts(sources)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_truncated_file_is_named(share: float, tmp_path: Path) -> None:
    for name in ("t.parquet", "t.feather"):
        path = written(tmp_path, name)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} is no .* can be read: "):
            tables.parts([path])


def test_a_file_that_breaks_off_while_it_is_read_is_named(tmp_path: Path) -> None:
    for name in ("t.parquet", "t.feather"):
        path = written(tmp_path, name)
        parts = tables.parts([path])
        content = bytearray(path.read_bytes())
        content[100:4000] = bytes(3900)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} is no .* can be read: "):
            list(tables.batches(parts))


def test_a_csv_row_that_does_not_fit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK", 4096)
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,2\n" * 3000 + "x,2\n")
    with pytest.raises(ValueError, match=r"t\.csv is no CSV file that can be read: .*'x'"):
        list(tables.batches(tables.parts([path])))
    path.write_text("a,a\n1,2\n")
    with pytest.raises(ValueError, match="has more than one column 'a'"):
        tables.parts([path])


def test_places_of_text_beyond_a_feather_file_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.feather"
    feather.write_feather(TABLE, str(path), compression="uncompressed")
    places, beyond = (np.array(each, np.int32).tobytes() for each in ([2, 4, 6], [2, 1 << 30, 6]))
    assert path.read_bytes().count(places) == 1
    path.write_bytes(path.read_bytes().replace(places, beyond))
    message = r"t\.feather is no Feather file that can be read: .*out of bounds"
    with pytest.raises(ValueError, match=message):
        tables.read_table(path)
    with pytest.raises(ValueError, match=message):
        list(tables.batches(tables.parts([path])))
