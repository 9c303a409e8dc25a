"""Progress where stderr is no terminal: whole lines, at most one a minute beside those on finished pieces, and nobody's bars."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from every_kind import Command

from lmntk.cli import lines, printing
from lmntk.cli.bars import Bars
from lmntk.cli.lines import Lines

BAR = re.compile(r"\r|\x1b|\d+%\||it/s|━")


def own(folder: Path, out: Path, *more: object) -> list[object]:
    return [
        "--model", folder / "bert", "--name", "films", "--train", folder / "train.jsonl", "--test", folder / "test.jsonl",
        "--text-column", "text_a", "--template", "{a} it was {mask}.", "--label-words", "terrible,great", "--k", "2",
        "--seeds", "13", "--out", out, *more,
    ]  # fmt: skip


TRAIN = ("--optimizers", "sgd", "--learning-rates", "1e-3", "--batch-sizes", "2", "--steps", "4")


def arguments(command: str, folder: Path, out: Path) -> list[object]:
    if command == "check":
        return ["check", folder / "bert", "--texts", folder / "test.jsonl"]
    if command == "predict":
        return ["predict", out, folder / "test.jsonl", "--out", out / "said.jsonl"]
    more = {"run": ("--formulas", "sgd", "--save-models"), "plan": (), "finetune": TRAIN, "diagnose": TRAIN}
    return [command, *own(folder, out, *more[command])]


@pytest.mark.parametrize("command", ["check", "run", "plan", "finetune", "diagnose", "predict"])
def test_every_long_command_says_in_whole_lines_how_far_it_is(
    folder: Path, tmp_path: Path, lmntk: Command, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    if command == "predict":
        lmntk.works(*arguments("run", folder, tmp_path))
    monkeypatch.setattr(lines, "SECONDS", 0.002)  # for a minute
    code, _, errors = lmntk(*arguments(command, folder, tmp_path))
    said = [line for line in errors.splitlines() if line.startswith("after ")]
    assert code in (0, 1) and said, errors
    assert all(re.match(r"after \d+ s(, \d of \d splits finished)?: \S", line) for line in said)
    if command != "predict":
        assert any(line.endswith(": loading the model") for line in said)
    assert not BAR.search(errors)


def test_within_a_minute_there_is_no_line(folder: Path, lmntk: Command) -> None:
    assert lines.SECONDS == 60
    _, _, errors = lmntk(*arguments("check", folder, folder))
    assert "after" not in errors


def test_a_line_has_the_share_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(lines, "time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = Lines()
    assert progress._line() == "after 1 s: starting"
    now[0] = 100
    progress.start(5, 2)
    progress.work("SST-2 k=16", 8)
    progress.advance(1)
    progress.advance(1)
    now[0] = 400
    assert progress._line() == "after 7 min, 2 of 5 splits finished: SST-2 k=16 25 %, about 15 min left of it"
    progress.finished("films", [{"method": "sgd ridge", "test": 0.5}, {"method": "sgd svc", "test": None}])
    progress.phase("writing")
    progress.note("a note")
    progress.note("a note")
    assert progress._line() == "after 7 min, 3 of 5 splits finished: writing"
    progress.work("texts", None)
    progress.advance(1200)
    assert progress._line().endswith(": texts, 1200 done")
    assert capsys.readouterr().err.splitlines() == [
        "2 of 5 splits were finished before and are not computed again",
        "films: sgd ridge 50.0, sgd svc diverged",
        "a note",
    ]


def test_the_clock_stops_with_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "SECONDS", 0.01)

    def fail_late() -> None:
        time.sleep(0.1)
        raise KeyError

    with pytest.raises(KeyError), Lines():
        fail_late()
    assert capsys.readouterr().err.count("\n") >= 2
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(printing._listener(), Lines)
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True))
    assert isinstance(printing._listener(), Bars)
