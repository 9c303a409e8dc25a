"""``lmntk subspace``: a file, a table of candidates, and one to take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

CommandLine = Callable[..., tuple[int, str, str]]
PROMPT = ("--template", "{a} It was {mask}.", "--label-words", "good=great,bad=terrible")
SMALL = ("--targets", "query+value,all-linear", "--ranks", "1,2", "--draws", "2")
WORDS = {"good": ("great", "fun", "happy"), "bad": ("terrible", "dull", "sad")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked model."""
    return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six texts of each of two classes."""
    path = tmp_path_factory.mktemp("table") / "texts.csv"
    rows = [
        f"a {WORDS[label][n % 3]} {('film', 'book')[n // 3]},{label}" for n in range(6) for label in WORDS
    ]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf8")
    return path


@pytest.mark.parametrize(("prompt", "mode"), [(PROMPT, "prompt"), ((), "head")])
def test_a_file_becomes_a_recommendation(
    model: Path, table: Path, tmp_path: Path, command_line: CommandLine, prompt: tuple[str, ...], mode: str
) -> None:
    call = ("subspace", table, "--model", model, *prompt, *SMALL, "--adam", "--out", tmp_path, "--json")
    code, out, _ = command_line(*call)
    assert code == 0
    record = json.loads(out)
    assert record["mode"] == mode
    names = [row["name"] for row in record["candidates"]]
    lora = [f"{target} r={rank}" for target in ("query+value", "all-linear") for rank in (1, 2)]
    assert names == ["all parameters", "biases", "norms", *lora]
    everything = record["candidates"][0]
    assert everything["distance"] == pytest.approx(0, abs=1e-9)
    assert everything["rate_ratio"] == pytest.approx(1)
    assert everything["adam_scale"] == pytest.approx(1)
    for row in record["candidates"][1:]:
        assert 0 < row["distance"] <= 1
        assert row["adam_scale"] > 0
        assert (row["distance_to_adapted"] is None) == (" r=" not in row["name"])
    assert record["recommendation"]["name"] in names
    for kind in ("layer: ", "type: "):
        assert sum(
            share for name, share in record["shares"].items() if name.startswith(kind)
        ) == pytest.approx(1)
    assert json.loads((tmp_path / "subspace.json").read_text())["candidates"] == record["candidates"]
    page = (tmp_path / "report.html").read_text(encoding="utf8")
    assert record["recommendation"]["sentence"] in page and page.count("<svg") == 3


def test_the_second_time_kernels_are_read(
    model: Path, table: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ("subspace", table, "--model", model, *PROMPT, *SMALL, "--out", tmp_path, "--json")
    first = command_line(*call)[1]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("lmntk.subspaces.survey.stream_kernels", refuse)
    assert command_line(*call)[1] == first
    with pytest.raises(AssertionError, match="computed again"):
        command_line(*call, "--ranks", "1")


def test_few_texts_get_no_recommendation(model: Path, tmp_path: Path, command_line: CommandLine) -> None:
    table = tmp_path / "few.csv"
    table.write_text("text,label\na,good\nb,bad\nc,good\nd,bad\n", encoding="utf8")
    code, out, _ = command_line("subspace", table, "--model", model, *SMALL, "--out", tmp_path / "out")
    assert code == 0
    assert out.startswith("There are too few texts to hold any out")
    assert "LoraConfig" not in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--targets", "nothing"), "no 'nothing' is known"),
        (("--ranks", "4096"), "rank: 4096 is more than"),
        (("--targets", "none", "--others", "none"), "there is no candidate"),
        (("--tolerance", "2"), "tolerance"),
        (("--draws", "0"), "draws"),
        (("--targets", "embeddings"), "no linear map for LoRA"),
    ],
)
def test_mistakes_are_one_line(
    model: Path,
    table: Path,
    tmp_path: Path,
    command_line: CommandLine,
    options: tuple[str, ...],
    message: str,
) -> None:
    code, out, err = command_line("subspace", table, "--model", model, *SMALL, *options, "--out", tmp_path)
    assert code == 2
    assert out == ""
    assert message in err.splitlines()[-1]
