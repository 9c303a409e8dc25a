"""A checkpoint that the user fine-tuned is diagnosed, and weights of a training that are gone are made again."""

from __future__ import annotations

import json
import shutil

import pytest
from diagnosed_runs import CELL, changed, diagnosed_values, diagnosis, nothing_is_computed
from kept import kept_at
from safetensors.torch import load_file, save_file
from tiny import write_gpt2, write_model, write_rows
from typer.testing import CliRunner

from lmntk.cli.app import app
from lmntk.errors import UserError
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.report import verdicts_of
from lmntk.experiment.run import run
from lmntk.experiment.steps import finetune as arms
from lmntk.experiment.steps.diagnose import given_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def values(model, tmp_path):
    return diagnosed_values(model, tmp_path)


def test_the_users_own_checkpoint_is_diagnosed_without_training(values, tmp_path, monkeypatch):
    run(make_experiment(changed(values | {"diagnose": False, "modes": ["prompt", "head"]}, export=True)))
    place = f"{CELL}-sgd-fine-tuning"
    checkpoint = tmp_path / "mine"
    (kept_at(values["out"] / "finetunings" / place) / "model").rename(checkpoint)
    test = json.loads(kept_at(values["out"] / "finetunings" / f"{place}.json").read_text())["test"]
    values = values | {"finetune": [], "finetuned": str(checkpoint), "out": tmp_path / "other"}
    monkeypatch.setattr(arms, "search", lambda *a, **k: pytest.fail("trained a grid"))
    run(make_experiment(values))
    digest = given_checkpoint(checkpoint).digest
    found = diagnosis(values, f"given-fine-tuning-{digest[:12]}")
    assert found["method"] == f"given fine-tuning ({tmp_path.name}/mine, {digest[:8]})" and found["numbers"][
        "fine_tuned"
    ] == pytest.approx(test)
    assert found["emulation"] is None and found["numbers"]["rate"] is None
    another = tmp_path / "other seed" / tmp_path.name / "mine"  # its path ends as the first one's does
    shutil.copytree(checkpoint, another)
    weights = load_file(another / "model.safetensors")
    save_file(
        {name: value * 1.01 for name, value in weights.items()},
        another / "model.safetensors",
        {"format": "pt"},
    )
    run(make_experiment(values | {"finetuned": str(another)}))  # beside the first, not in its place
    digests = {digest[:8], given_checkpoint(another).digest[:8]}
    assert {one["method"].split(", ")[1] for one in verdicts_of(values["out"])["verdicts"]} == {
        f"{digest})" for digest in digests
    }
    nothing_is_computed(monkeypatch)
    run(make_experiment(values))
    moved = checkpoint.rename(tmp_path / "moved")  # is the same checkpoint
    run(make_experiment(values | {"finetuned": str(moved)}))
    checkpoint = moved.rename(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(
        (kept_at(tmp_path / "other" / "kernels" / CELL) / "logits.safetensors").read_bytes()
    )
    with pytest.raises(UserError):  # another content is another checkpoint
        run(make_experiment(values))


def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_is_computed(values, tmp_path, monkeypatch):
    nothing_is_computed(monkeypatch)
    for path, words in [
        (write_gpt2(tmp_path / "gpt2"), "finetuned: .*gpt2"),
        (tmp_path / "nowhere", "finetuned: there is no"),
        (write_rows(tmp_path / "rows.jsonl", 3), "not a readable safetensors file"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            run(make_experiment(values | {"finetune": [], "finetuned": str(path)}))
        assert "\n" not in str(caught.value) and not values["out"].exists()


def test_weights_that_were_deleted_are_made_again(values):
    run(make_experiment(changed(values, save_weights=True)))
    before = diagnosis(values)
    shutil.rmtree(values["out"] / "diagnoses")
    (weights,) = (values["out"] / "finetunings").glob("*/weights.safetensors")
    weights.unlink()
    run(make_experiment(values))
    assert diagnosis(values) == before


def test_a_file_with_a_checkpoint_trains_nothing(values, monkeypatch, tmp_path):
    path = tmp_path / "given.toml"
    mine = tmp_path / "mine"
    mine.mkdir()
    path.write_text(f'model = {values["model"]!r}\nfinetuned = "{mine}"\n')
    asked = []
    monkeypatch.setattr(
        "lmntk.experiment.run.run", lambda experiment, *_, **__: asked.append(experiment) or []
    )
    monkeypatch.setattr(
        "lmntk.experiment.report.verdicts_of", lambda folder: {"verdicts": [], "comparisons": []}
    )
    task = values["own_tasks"][0]
    words = [
        "diagnose",
        str(path),
        "--train",
        task["train"],
        "--test",
        task["test"],
        "--text-column",
        "text_a",
    ]
    words += ["--template", task["template"], "--label-words", "terrible,great"]
    for more, trained in (([], ()), (["--optimizers", "sgd"], ("sgd",))):
        assert CliRunner().invoke(app, words + more, catch_exceptions=False).exit_code == 0
        assert tuple(asked[-1].finetune) == trained and asked[-1].finetuned == mine
