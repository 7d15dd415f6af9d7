"""Tables from files of every kind, files written whole or not at all, bad files as sentences."""

from __future__ import annotations

import errno
import gzip
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet
from sklearn import datasets

from crossent import files, tables

TABLE = pa.table(
    {"age": [31.5, None, 28.0], "colour": ["red", "blue", None], "zip": [10115, 20095, 80331]}
)


def written(folder: Path, name: str, table: pa.Table = TABLE) -> Path:
    path = folder / name
    {".csv": csv.write_csv, ".parquet": parquet.write_table}.get(
        path.suffix, lambda table, path: feather.write_feather(table, str(path))
    )(table, path)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.feather", "t.arrow"])
def test_every_format_reads_the_same(name: str, tmp_path: Path) -> None:
    assert tables.read_table(written(tmp_path, name)).equals(TABLE)


@pytest.mark.parametrize("name", ["o.csv", "o.tsv", "o.parquet", "o.pq", "o.feather", "o.arrow"])
def test_what_is_written_reads_the_same(name: str, tmp_path: Path) -> None:
    tables.write_table(TABLE, tmp_path / name)
    assert tables.read_table(tmp_path / name).equals(TABLE)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_delimiter_is_found_out(delimiter: str, mark: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [["größe", '"a,b;c"', "y"], ["1", "x", "p"], ["2", "z", "q"]]
    path.write_text(mark + "\n".join(delimiter.join(line) for line in lines), encoding="utf-8")
    table = tables.read_table(path)
    assert table.column_names == ["größe", "a,b;c", "y"]
    assert table["y"].to_pylist() == ["p", "q"]


def test_compressed_csv_and_quoted_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b'a,b\n1,"two\nlines"\n2,one\n'))
    assert tables.read_table(path)["b"].to_pylist() == ["two\nlines", "one"]


@pytest.mark.parametrize("word", tables.MISSING)
def test_words_for_missing(word: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"number,text,other\n1.5,a,x\n{word},{word},y\n2,b,z\n")
    table = tables.read_table(path)
    assert table["number"].to_pylist() == [1.5, None, 2.0]
    assert table["text"].to_pylist() == ["a", None, "b"]


def test_the_type_of_a_column_is_told_from_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{i},0\n" for i in range(300_000)) + "1.5,x\n")
    table = tables.read_table(path)
    assert table.schema.types == [pa.float64(), pa.string()]


def test_text_columns_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("code,n\n01,1\n02,2\n")
    assert tables.read_table(path)["code"].to_pylist() == [1, 2]
    assert tables.read_table(path, ["code", "elsewhere"])["code"].to_pylist() == ["01", "02"]


@pytest.mark.parametrize("name", tables.SAMPLES)
def test_samples(name: str) -> None:
    table, bunch = tables.read_table(name), getattr(datasets, f"load_{name}")()
    assert table.column_names == [*map(str, bunch.feature_names), "target"]
    features = np.column_stack([table[key] for key in table.column_names[:-1]])
    assert (features == bunch.data).all()
    names = bunch.target_names[bunch.target]
    assert table["target"].to_pylist() == names.tolist()


# Bad files --------------------------------------------------------------------------------------

BAD = [
    ("t.csv", b"", "t.csv is empty"),
    ("t.csv", b"a,b\n", "t.csv has 2 columns but no rows"),
    ("t.csv", b"a,b\n1,2\n3\n", "t.csv is no CSV file that can be read: CSV parse error"),
    ("t.csv", b"a,b\n1,\xe4\n", "t.csv is not UTF-8 text (see column 'b'); save it as UTF-8"),
    ("t.csv", b"a,\xe4\n1,2\n", "t.csv is not UTF-8 text (see its first line); save it as"),
    ("t.csv", b"a,a,b\n1,2,3\n", "t.csv has more than one column 'a'; names must differ"),
    ("t.csv.gz", b"no gzip", "t.csv.gz is no CSV file that can be read"),
    ("t.parquet", b"PAR1 no more", "t.parquet is no Parquet file that can be read"),
    ("t.feather", b"ARROW1 no more", "t.feather is no Feather file that can be read"),
    ("t.xls", b"x", "t.xls cannot be read: the suffix must be one of .csv, .tsv, .parquet"),
    ("t", b"x", "t cannot be read: the suffix must be one of"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_a_file_that_is_no_table_is_a_sentence(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        tables.read_table(tmp_path / name)


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_a_file_cut_short_is_a_sentence(suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"t{suffix}", pa.table({"a": np.arange(10_000)}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises((ValueError, OSError), match=r"is no \w+ file that can be read"):
        tables.read_table(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.csv: there is no such file"):
        tables.read_table(tmp_path / "gone.csv")


# Whole or not at all ----------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "old.txt"
    path.write_text("old")

    def fill_the_disk() -> None:
        with files.replacing(path) as beside:
            beside.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(beside))

    with pytest.raises(OSError, match=r"old\.txt cannot be written: No space left on device"):
        fill_the_disk()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["old.txt"]


def test_no_directory_is_told_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cannot be written: there is no directory"):
        files.check_can_write(tmp_path / "gone" / "t.csv")
    with pytest.raises(IsADirectoryError, match="cannot be written: it is a directory"):
        files.check_can_write(tmp_path)
    with pytest.raises(ValueError, match=r"t\.xls cannot be written: the suffix must be one of"):
        tables.write_table(TABLE, tmp_path / "t.xls")
    with pytest.raises(ValueError, match="cannot be written"):
        tables.write_table(TABLE, tmp_path / "t.csv.gz")
