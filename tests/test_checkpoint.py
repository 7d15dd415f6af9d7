"""Checkpoints: a training that was stopped goes on to the very same coefficients."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossent.checkpoint import JOB, Checkpoint
from crossent.search import Progress
from crossent.sklearn import CrossEntropyClassifier
from stream_cases import Again, table, written
from test_stream import crossent


class StoppedError(Exception):
    """The power went."""


def batches(rows: int = 900, columns: int = 5) -> list[tuple[Any, ...]]:
    random = np.random.default_rng(0)
    X = random.standard_normal((rows, columns))
    codes = (X[:, :3] + random.gumbel(size=(rows, 3))).argmax(axis=1)
    return [(X[i], codes[i]) for i in (slice(0, rows // 3), slice(rows // 3, None))]


class Counted(Again):
    """Batches that count how often they are gone through."""

    looks = 0

    def __iter__(self) -> Any:
        self.looks += 1
        return super().__iter__()


def fitted(
    given: Any, folder: Path | None = None, stop: int = -1, **options: Any
) -> CrossEntropyClassifier:
    def callback(progress: Progress) -> None:
        if progress.iteration == stop:
            raise StoppedError

    resume, every = options.pop("resume", False), options.pop("every", 3)
    keeper = None if folder is None else Checkpoint(folder, every, resume)
    model = CrossEntropyClassifier(callback=callback, **{"tol": 1e-7, **options})
    return model.fit_batches(given, ["a", "b", "c"], checkpoint=keeper)


WAYS = [{"rows": 900, "columns": 5}, {"rows": 60, "columns": 90}]  # L-BFGS, Newton


@pytest.mark.parametrize("way", WAYS, ids=["L-BFGS", "Newton"])
@pytest.mark.parametrize("stop", [0, 1, 3, 8])
def test_resumed_is_uninterrupted_to_the_bit(
    way: dict[str, int], stop: int, tmp_path: Path
) -> None:
    given = batches(**way)
    whole = fitted(given)
    assert whole.n_iter_ > 4
    with pytest.raises(StoppedError):
        fitted(given, tmp_path / "kept", min(stop, whole.n_iter_))
    again = fitted(given, tmp_path / "kept", resume=True)
    assert (again.coef_ == whole.coef_).all()
    assert again.loss_history_.tolist() == whole.loss_history_.tolist()


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    given = Counted(batches())
    whole = fitted(given, tmp_path)
    asked, given.looks = given.looks, 0
    again = fitted(given, tmp_path, resume=True)
    assert (again.coef_ == whole.coef_).all()
    assert given.looks <= 5 < asked  # what is before the search and after it, and its first look
    files = sorted(os.listdir(tmp_path))
    assert files == [f"answers-{i:06d}" for i in range(len(files) - 1)] + [JOB]


def test_another_tol_goes_on_from_there(tmp_path: Path) -> None:
    given = batches()
    fitted(given, tmp_path, tol=1e-2)
    further = fitted(given, tmp_path, resume=True)
    assert (further.coef_ == fitted(given).coef_).all()


def test_what_stands_behind_a_gap_is_forgotten(tmp_path: Path) -> None:
    given, kept = batches(), tmp_path / "kept"
    whole = fitted(given, kept)
    files = sorted(kept.glob("answers-*"))
    assert len(files) > 3
    files[1].unlink()
    for every in (1000, 3):  # all that is new in one file, with none of the old ones behind it
        again = fitted(given, kept, resume=True, every=every)
        assert (again.coef_ == whole.coef_).all()
        assert sorted(kept.glob("answers-*")) == files[:2]
    (kept / JOB).unlink()
    with pytest.raises(FileExistsError, match="holds a checkpoint already"):
        fitted(given, kept)


def test_every_is_a_whole_number_above_0(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every is 0; it must be finite, at least 1"):
        Checkpoint(tmp_path / "kept", every=0)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    given, kept = batches(), tmp_path / "kept"
    fitted(given, kept, tol=1e-3)
    with pytest.raises(FileExistsError, match="holds a checkpoint already"):
        fitted(given, kept)
    with pytest.raises(ValueError, match=r"of another training: l2 was 0\.0001 and is 1\.0"):
        fitted(given, kept, resume=True, l2=1.0)
    other = [(X, codes[::-1]) for X, codes in given]
    with pytest.raises(ValueError, match="of a training on other rows: the loss began at "):
        fitted(other, kept, resume=True)
    answers = kept / "answers-000001"
    content = np.fromfile(answers).reshape(-1, 3 + 18)
    content[-1, 0] *= 2
    content.tofile(answers)
    with pytest.raises(ValueError, match="the steps made there are not those made here"):
        fitted(given, kept, resume=True)
    os.truncate(answers, 100)
    with pytest.raises(ValueError, match="answers-000001 is no part of this checkpoint, or it"):
        fitted(given, kept, resume=True)
    (kept / JOB).write_text("[]")
    with pytest.raises(ValueError, match=r"job\.json is no part of this checkpoint|was None"):
        fitted(given, kept, resume=True)


def test_the_command_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written("t.parquet", table(1000))
    line = ("fit", "t.parquet", "--target", "y", "--checkpoint", "kept", "--tol", "1e-6")
    line += ("--resume", "--checkpoint-every", "1")
    assert crossent(*line, "--max-iter", "3").exit_code == 0
    assert json.loads(Path("kept", JOB).read_text())["loss"] == "softmax"
    shown = crossent(*line).output
    assert "gradient below tol" in shown
    whole = crossent("fit", "t.parquet", "--target", "y", "--tol", "1e-6").output
    assert shown == whole


# A disk that is full ----------------------------------------------------------------------------


def _small_files() -> None:
    """Let no file of this process be longer than 20 kB: what a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize("option", ["--out", "--checkpoint", "--report"])
def test_a_full_disk_is_one_sentence_and_earlier_files_stay(option: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    content = table(400)
    for j in range(300):
        content = content.append_column(f"n{j}", [random.standard_normal(400)])
    path = written(str(tmp_path / "t.parquet"), content)
    name = tmp_path / "result"
    if option != "--checkpoint":
        name.write_text("earlier")
    line = [sys.executable, "-m", "crossent", "fit", str(path), "--target", "y"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*line, option, str(name), "--max-iter", "4"],
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=_small_files,
        env=environment,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"crossent: {name}")
    assert "cannot be written: " in done.stderr
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    if option == "--checkpoint":
        assert sorted(os.listdir(name)) == ["answers-000000", JOB]  # of the first look
    else:
        assert name.read_text() == "earlier"
        assert sorted(os.listdir(tmp_path)) == ["result", "t.parquet"]
    shutil.rmtree(tmp_path)
