"""``lmntk next``: the posterior of a fit's own kernels, no text twice, and mistakes in one line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from kept_fits import messages, write_lines, write_table

from lmntk.attribution.posterior import Posterior
from lmntk.engine.settings import Settings
from lmntk.estimator.new_texts import among, with_training_texts
from lmntk.estimator.solved import Solved
from lmntk.explanation import next_texts
from lmntk.prediction.files import load_predictor
from lmntk.tasks.example import Example

CommandLine = Callable[..., tuple[int, str, str]]
COLUMNS = ("--text-column", "message", "--label-column", "category", "--dtype", "float64")
POOL = [
    "a great story",
    "dull and sad",
    "it is not a film ?",
    "a great story",
    "a great film",
    "very happy",
    " ",
]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of two classes."""
    from lmntk.estimator.fit import fit_file
    from lmntk.estimator.given import read_input
    from lmntk.experiment.configuration import Fit, from_flags
    from lmntk.system.progress import Silent

    root = tmp_path_factory.mktemp("next")
    table = write_table(root / "texts.tsv", messages(3))
    fields = {"text_column": "message", "label_column": "category", "dtype": "float64"}
    options = from_flags(
        Fit,
        {
            "model": str(tiny.write_model(root / "model")),
            "file": str(table),
            "out": str(root / "fit"),
            **fields,
        },
    )
    fit_file(options, read_input(options), Silent())
    return root / "fit"


def test_the_least_sure_texts_come_first(
    fit: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next_texts, "CANDIDATES", 3)
    pool = write_lines(tmp_path / "pool.jsonl", POOL)
    code, out, _ = command_line("next", fit, pool, "--count", "2", "--out", tmp_path, "--json")
    assert code == 0
    record = json.loads(out)
    # neither the text that comes twice, nor the one that was trained on, nor the empty one
    assert record["pool"] == 4
    new = [Example(POOL[number]) for number in (0, 1, 2, 5)]
    loaded, solved = load_predictor(fit), Solved.read(fit)
    computed = with_training_texts(loaded, solved, new, Settings())
    margins = np.abs(solved.refits(computed.cross, computed.logits).decisions + solved.intercept)[:, 0]
    candidates = margins.argsort()[:3].tolist()
    chosen = [new[number] for number in candidates]
    refits = solved.refits(computed.cross[:, :, candidates], computed.logits[candidates])
    posterior = Posterior.of(refits, among(loaded, solved, chosen, Settings()), solved.intercept)
    batch = posterior.batch(2)
    assert [text["text"] for text in record["texts"][:2]] == [chosen[number].text_a for number in batch]
    assert [text["rank"] for text in record["texts"]] == [1, 2, None]
    for text in record["texts"]:
        number = [example.text_a for example in chosen].index(text["text"])
        assert text["sure"] == pytest.approx(posterior.sureness()[number], abs=1e-6)
        assert text["abstain"] == (text["sure"] < 0.75)
        assert POOL[text["row"] - 1] == text["text"]
    with (tmp_path / "next.csv").open(encoding="utf8") as file:
        assert [row["text"] for row in csv.DictReader(file)] == [text["text"] for text in record["texts"][:2]]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["a great film"], (), "holds no new text"),
        (POOL, ("--text-column", "body"), "body"),
        (POOL, ("--count", "0"), "count"),
    ],
)
def test_mistakes_are_one_line(
    fit: Path,
    tmp_path: Path,
    command_line: CommandLine,
    texts: list[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    pool = write_lines(tmp_path / "pool.jsonl", texts)
    code, out, err = command_line("next", fit, pool, *options, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert re.search(message, err)
    assert "Traceback" not in err
