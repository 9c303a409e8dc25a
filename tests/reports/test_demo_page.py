"""The demonstration's lines and page, from what its parts would come to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lmntk.bundled import EXAMPLES, MODEL
from lmntk.cli import demonstration
from lmntk.cli.commands import demo
from lmntk.cli.demo_sentences import bars_of, lines_of
from lmntk.errors import UserError
from lmntk.experiment.configuration import Experiment
from lmntk.reports import demo_page

SCALE = demonstration.Scale(
    MODEL, "{a} It is {mask}.", {"sgd": 1e-3}, shots=2, steps=5, looks=5, test_texts=8, labelled=40
)
SENTENCE = "This is worse than chance: 24.0 against 25.0 % held out, a difference of -1.0 ± 0.2 points. Do not fine-tune this; use that."


def verdict(
    method: str, reached: float | None, emulated: float | None, overshoots: bool
) -> dict[str, object]:
    emulator = None if emulated is None else {"figure": "+1.0 ± 2.0"}
    miss = None if reached is None else {"figure": "-2.0 ± 1.5"}
    forecast = {"overshoots": overshoots, "kernel": miss, "emulator": emulator}
    return {
        "method": method,
        "numbers": {"fine_tuned": reached, "emulated": emulated},
        "forecast": forecast,
        "regime": {"phrase": "the kernel regime holds, e = 0.01"},
    }


def shown(rank: int = 3, named: int = 1, outcome: str = "worse") -> SimpleNamespace:
    row = {"train_texts": 32, "test_texts": 100}
    accuracies = {"zero-shot": 0.3, "sgd ridge": 0.9, "linear probe": 0.5}
    audited = [{"row": number} for number in range(1, 33)]
    audited.insert(rank - 1, audited.pop(6))
    return SimpleNamespace(
        rows=[{"method": name, "test": share, **row} for name, share in accuracies.items()],
        verdicts={
            "verdicts": [
                verdict("sgd fine-tuning", 0.5, 0.51, True),
                verdict("adamw fine-tuning", 0.92, None, False),
            ]
        },
        rooms=SimpleNamespace(standing={"sentence": SENTENCE, "outcome": outcome}),
        audit=SimpleNamespace(rows=audited, named=named),
        planted=7,
    )


def test_what_was_asked_forecast_and_really_trained() -> None:
    lines = lines_of(shown())
    assert lines["Asked"] == (
        "which of 4 products is a message about? 8 labelled messages of each are there to learn from, "
        "and 100 others to test; chance is 25 %"
    )
    assert "would reach 90 ± 3 %; the prompt alone has 30 %, a linear probe 50 %" in lines["Forecast"]
    assert lines["Really trained"] == (
        "SGD reached 50 % and had not converged; the kernel's emulation of the same steps has 51 % (the kernel regime holds, e = 0.01). "
        "AdamW reached 92 %; the forecast missed it by -2.0 ± 1.5 points (the kernel regime holds, e = 0.01)"
    )
    assert SENTENCE in lines["Leave it alone"]


@pytest.mark.parametrize(
    ("rank", "named", "end"), [(1, 1, "it was found"), (3, 1, "it was not found"), (3, 3, "it was found")]
)
def test_a_planted_label_is_found_or_not(rank: int, named: int, end: str) -> None:
    line = lines_of(shown(rank, named))["A wrong label"]
    assert f"number {rank}, and `lmntk audit` names {named} as wrong: {end}" in line
    assert "one label of 32" in line


def test_a_training_that_diverged_is_said_and_has_no_bar() -> None:
    diverged = shown()
    diverged.rows.append({"method": "sgd fine-tuning", "test": None, "train_texts": 32, "test_texts": 100})
    diverged.verdicts["verdicts"][0] = verdict("sgd fine-tuning", None, None, False)
    assert lines_of(diverged)["Really trained"].startswith(
        "SGD diverged (the kernel regime holds, e = 0.01). AdamW reached"
    )
    assert [name for name, _ in bars_of(diverged)] == [
        "Forecast, to the end", "AdamW, really trained", "Linear probe", "Zero-shot", "Chance"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "name"),
    [("worse", "Leave it alone"), ("undecided", "Another task"), ("better", "Another task")],
)
def test_a_task_is_to_be_left_alone_where_the_fit_says_so(outcome: str, name: str) -> None:
    assert SENTENCE in lines_of(shown(outcome=outcome))[name]


def test_the_bars_are_the_accuracies() -> None:
    assert bars_of(shown()) == [
        ("Forecast, to the end", 90.0),
        ("SGD, really trained", 50.0),
        ("AdamW, really trained", 92.0),
        ("SGD, emulated by the kernel", 51.0),
        ("Linear probe", 50.0),
        ("Zero-shot", 30.0),
        ("Chance", 25.0),
    ]


def test_the_page_has_them_as_text(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(demo_page, "curves", lambda folder: [])
    said = {
        "text": "<b>loud</b>", "predicted": "lamp", "runner_up": "chair", "label": "chair", "row": None,
        "sides": [("for it", [{"weight": "strongly", "label": "lamp", "text": "<i>", "row": 1, "without": None}])],
    }  # fmt: skip
    demo_page.write_demo_page(
        tmp_path, tmp_path / "products-5", {"Asked": "<script> in `lmntk <fit>`"}, bars_of(shown()), [said]
    )
    page = (tmp_path / "report.html").read_text(encoding="utf8")
    assert "&lt;script&gt; in <code>lmntk &lt;fit&gt;</code>" in page
    assert "&lt;b&gt;loud" in page
    assert "<i>" not in page
    assert "wrong: chair" in page
    assert 'href="products-5/report.html"' in page
    assert 'style="width: 92.0%"' in page


@pytest.mark.parametrize("part", ["", "products-13", "predictions", "rooms", "labels"])
def test_a_file_in_the_way_is_said_before_anything_is_computed(part: str, tmp_path, monkeypatch) -> None:
    def computed(experiment: object) -> list[object]:
        raise AssertionError("it computes")

    monkeypatch.setattr(demonstration, "run_experiment", computed)
    out = tmp_path / "demo"
    place = out / part
    place.parent.mkdir(exist_ok=True)
    place.write_text("")
    with pytest.raises(UserError, match=f"{place.name}' is a file; name a folder"):
        demonstration.show(SCALE, out, 13)


def test_the_first_texts_are_those_of_the_scale(tmp_path) -> None:
    given = demonstration._first(SCALE, "products/planted.jsonl", tmp_path / "labels")
    lines = Path(given["file"]).read_text().splitlines()
    assert Path(given["file"]).parent == given["out"]
    assert lines == (EXAMPLES / "products" / "planted.jsonl").read_text().splitlines()[:40]


@pytest.mark.parametrize("real", [False, True])
def test_the_planted_label_is_among_the_texts_of_the_command(real: bool, tmp_path, monkeypatch) -> None:
    def asked(scale: demonstration.Scale, out: Path, seed: int) -> None:
        assert demonstration.planted_row() <= scale.labelled
        raise UserError("enough")

    monkeypatch.setattr(demonstration, "show", asked)
    monkeypatch.setattr(demo, "REAL", EXAMPLES / "products" / "test.jsonl")  # a file that is there
    with pytest.raises(UserError, match="enough"):
        demo.demo(tmp_path, real, 13)


def test_verdicts_are_of_the_seed_alone(tmp_path, monkeypatch) -> None:
    runs = []

    def computed(experiment: Experiment) -> list[object]:
        runs.append(experiment.out)
        raise UserError("enough")

    monkeypatch.setattr(demonstration, "run_experiment", computed)
    for seed in (13, 21):
        with pytest.raises(UserError, match="enough"):
            demonstration.show(SCALE, tmp_path, seed)
    assert len(set(runs)) == 2  # a folder's verdicts and its explained split are those of all its runs
