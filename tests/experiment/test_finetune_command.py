"""Fine-tuning alone, by its command."""

from __future__ import annotations

import json

import pytest
from finetuned_runs import (
    finetuned_values,
)
from kept import kept_at
from tiny import (
    BASELINES,
    write_model,
)
from typer.testing import CliRunner

from lmntk.cli.app import app
from lmntk.errors import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def values(model, tmp_path):
    return finetuned_values(model, tmp_path)


def test_the_command_prints_a_table(values):
    task = values["own_tasks"][0]
    words = [
        "finetune", "--model", values["model"], "--train", task["train"], "--test", task["test"], "--text-column", "text_a",
        "--template", task["template"], "--label-words", "terrible,great", "--k", "2", "--seeds", "13", "--optimizers", "signgd",
        "--learning-rates", "1e-4,1e-3", "--batch-sizes", "2", "--steps", "3", "--eval-every", "2", "--out", str(values["out"]), "--save",
    ]  # fmt: skip
    printed = CliRunner().invoke(app, words, catch_exceptions=False)
    assert (
        printed.exit_code == 0
        and "| 2 | prompt | signgd fine-tuning |" in printed.stdout
        and "zero-shot" in printed.stdout
    )
    folder = kept_at(values["out"] / "finetunings" / "own-k2-seed13-prompt-signgd-fine-tuning")
    assert (folder / "weights.safetensors").is_file() and (folder / "model" / "config.json").is_file()
    rows = json.loads(CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).stdout)
    assert [row["method"] for row in rows] == [*BASELINES, "signgd fine-tuning"]
    both = [word for word in words if word != "--save"]
    both[both.index("--optimizers")], both[0] = "--finetune", "run"
    rows = json.loads(
        CliRunner().invoke(app, [*both, "--formulas", "sgd", "--json"], catch_exceptions=False).stdout
    )
    assert [row["method"] for row in rows] == [*BASELINES, "sgd ridge", "signgd fine-tuning"]
    with pytest.raises(
        UserError, match="--steps belongs to fine-tuning, and nothing is trained; add --finetune sgd"
    ):
        CliRunner().invoke(
            app,
            ["run", "--model", "m", "--data", "d", "--tasks", "sst-2", "--steps", "3"],
            catch_exceptions=False,
        )
    with pytest.raises(UserError, match="finetune: give --model"):
        CliRunner().invoke(app, ["finetune"], catch_exceptions=False)


def test_the_command_trains_alone_whatever_the_file_asks_for(values, tmp_path):
    own = values["own_tasks"][0]
    lines = [
        f'model = "{values["model"]}"',
        f'out = "{values["out"]}"',
        "k = [2]",
        "seeds = [13]",
        'finetune = ["sgd"]',
        "diagnose = true",
    ]
    lines += ["[finetuning]", "learning_rates = [1e-2]", "batch_sizes = [2]", "steps = 2", "[[own_tasks]]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in own.items()]
    (tmp_path / "own.toml").write_text("\n".join(lines))
    CliRunner().invoke(app, ["finetune", str(tmp_path / "own.toml")], catch_exceptions=False)
    assert (values["out"] / "finetunings").is_dir() and not (values["out"] / "diagnoses").exists()
