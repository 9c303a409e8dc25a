"""Fine-tuning as an arm of a run and on its own: rows beside the kernels', found again by content, resumed, saved."""

from __future__ import annotations

import csv
import re

import pytest
import torch
import transformers as hf
from finetuned_runs import (
    CELL,
    Watching,
    changed,
    finetuned_values,
    no_kernels,
    no_training,
    record,
    without_seconds,
)
from kept import kept_at
from tiny import (
    BASELINES,
    write_adapter,
    write_classifier,
    write_gpt2,
    write_llama,
    write_model,
    write_t5,
)

from lmntk.errors import UserError
from lmntk.experiment.configuration import load_experiment, make_experiment
from lmntk.experiment.run import run
from lmntk.experiment.steps import finetune as module
from lmntk.finetuning.files import load_weights, slug
from lmntk.models.loading import fingerprint, load_pretrained
from lmntk.models.logit_model import PromptModel


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def values(model, tmp_path):
    return finetuned_values(model, tmp_path)


def test_fine_tuning_alone_computes_no_kernel(values, monkeypatch):
    no_kernels(monkeypatch)
    values |= {"modes": ["prompt", "head"], "seeds": [13, 21], "finetune": ["sgd", "adamw"]}
    progress = Watching()
    rows = run(make_experiment(changed(values, linearized=True)), progress)
    out = values["out"]
    arms = [
        f"{optimizer} fine-tuning{kind}" for optimizer in ("sgd", "adamw") for kind in ("", " (linearized)")
    ]
    for mode, names in (("prompt", BASELINES), ("head", ["linear probe"])):
        for seed in (13, 21):
            assert [row["method"] for row in rows if (row["mode"], row["seed"]) == (mode, seed)] == [
                *names,
                *arms,
            ]
    assert (
        progress.found == (4, 0)
        and len(progress.done) == 4
        and progress.steps == progress.total == 16 * 2 * 4
    )
    table = list(csv.DictReader((out / "results.csv").open()))
    assert len(table) == len(rows) == 2 * (3 + 1) + 4 * 4 and {line["solver"] for line in table} == {
        "",
        "fine-tuning",
    }
    assert not (out / "kernels").exists() and not (out / "scratch").exists()
    found = record(values)
    assert (
        found["format"] == "lmntk finetuning 2"
        and found["split"] == CELL
        and found["optimizer"] == "sgd"
        and not found["linearized"]
    )
    assert found["checkpoint"] is None and found["trained"] > 1000 and len(found["runs"]) == 2
    chosen = found["runs"][found["chosen"]]
    assert chosen["status"] == "finished" and [look["step"] for look in chosen["curve"]] == [0, 2, 4]
    assert chosen["curve"][0]["loss"] is None and chosen["curve"][1]["loss"] > 0
    row = next(row for row in rows if row["seed"] == 13 and row["method"] == "sgd fine-tuning")
    assert (row["dev"], row["test"]) == (found["dev"], found["test"]) and row["setting"][
        "learning_rate"
    ] == chosen["learning_rate"]
    zero = next(row for row in rows if row["seed"] == 13 and row["method"] == "zero-shot")
    assert chosen["curve"][0]["dev"] == zero["dev"]
    lines = [
        line.split("\t") for line in kept_at(out / "predictions" / f"{CELL}.tsv").read_text().splitlines()
    ]
    assert lines[0] == ["row", "label", *BASELINES, *arms]
    assert [int(line[5]) for line in lines[1:]] == found["predictions"]
    assert sum(line[1] == line[5] for line in lines[1:]) / 12 == pytest.approx(found["test"])
    assert "sgd fine-tuning (linearized)" in (out / "summary.md").read_text()


def test_a_diverging_rate_is_said_and_the_rest_goes_on(values):
    progress = Watching()
    rows = run(make_experiment(changed(values, learning_rates=[1e38, 1e-2], max_grad_norm=0)), progress)
    found = record(values)
    assert [one["status"] for one in found["runs"]] == ["diverged", "finished"] and found["chosen"] == 1
    assert any("1 of 2 trainings diverged (learning rates 1e+38)" in line for line in progress.notes)
    assert (
        rows[-1]["test"] == found["test"] is not None
        and "diverged" in (values["out"] / "summary.md").read_text()
    )


def test_a_cell_whose_trainings_all_diverge_is_marked(values):
    rows = run(
        make_experiment(
            changed(values | {"modes": ["prompt", "head"]}, learning_rates=[1e38], max_grad_norm=0)
        )
    )
    assert (
        rows[3]["method"] == "sgd fine-tuning"
        and rows[3]["test"] is None
        and rows[3]["dev"] is None
        and rows[3]["setting"] == {}
    )
    assert record(values)["chosen"] is None and record(values)["predictions"] == []
    table = list(csv.DictReader((values["out"] / "results.csv").open()))
    assert table[3]["test"] == "" and len(table) == (3 + 1) + (1 + 1)
    assert re.search(
        r"\| 2 \| prompt \| sgd fine-tuning \| diverged \|", (values["out"] / "summary.md").read_text()
    )
    assert "sgd fine-tuning" not in kept_at(values["out"] / "predictions" / f"{CELL}.tsv").read_text()
    assert "NaN" not in kept_at(values["out"] / "splits" / f"{CELL}.json").read_text()


def test_the_page_keeps_a_cell_whose_training_diverged(values):
    run(make_experiment(changed(values, learning_rates=[1e30], max_grad_norm=0)))
    text = (values["out"] / "report.html").read_text()
    assert "zero-shot" in text and "1 of 1 trainings diverged" in text and "damaged" not in text
    assert len(re.findall(r"<th[^>]*>sgd fine-tuning</th>", text)) > 0


def test_rows_of_another_metric_do_not_stand_beside_those_of_this_one(values):
    run(make_experiment(values))
    own = [values["own_tasks"][0] | {"metric": "f1"}]
    assert {row["metric"] for row in run(make_experiment(values | {"own_tasks": own}))} == {"f1"}
    kernels = {"own_tasks": values["own_tasks"], "formulas": ["sgd"], "finetune": []}
    assert {row["metric"] for row in run(make_experiment(values | kernels))} == {"accuracy"}


def test_odd_texts_are_noted(values, tmp_path):
    folder = tmp_path / "split" / "sst-2" / "4-13"
    folder.mkdir(parents=True)
    for name, labels in (("train", "11"), ("dev", "00"), ("test", "0101")):
        lines = [
            "sentence\tlabel",
            *(f"the film was {('bad', 'good')[int(label)]}\t{label}" for label in labels),
        ]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    own = {"own_tasks": [], "tasks": ["sst-2"], "data": str(tmp_path / "split"), "k": [4]}
    rows = run(make_experiment(changed(values | own, batch_sizes=[8])))
    notes = " ".join(rows[-1]["notes"])
    assert (
        "no train text has the label negative" in notes
        and "dev has texts of one class only" in notes
        and "cut to the 2 train texts" in notes
    )


def test_saved_weights_give_the_predictions_again_and_the_folder_is_a_model(values):
    run(make_experiment(changed(values, save_weights=True, export=True)))
    found = record(values)
    assert found["checkpoint"] == f"finetunings/{CELL}-sgd-fine-tuning-{found['key'][:8]}/weights.safetensors"
    weights, facts = load_weights(values["out"] / found["checkpoint"])
    assert facts["method"] == "sgd fine-tuning" and facts["model"] == fingerprint(
        load_pretrained(values["model"]).network
    )
    folder = kept_at(values["out"] / "finetunings" / f"{CELL}-sgd-fine-tuning") / "model"
    exported = dict(hf.AutoModelForMaskedLM.from_pretrained(folder).named_parameters())
    assert all(torch.equal(exported[name.removeprefix("network.")], value) for name, value in weights.items())
    assert hf.AutoTokenizer.from_pretrained(folder).mask_token == "[MASK]"
    again = make_experiment(
        changed(values | {"model": str(folder), "finetune": ["sgd"]}, steps=1, learning_rates=[1e-9])
    )
    rows = run(again.model_copy(update={"out": values["out"].parent / "again"}))
    assert rows[0]["test"] == found["test"]  # zero-shot of the fine-tuned model is fine-tuning's result


def test_weights_that_were_not_kept_are_trained_for_when_they_are_wanted(values):
    run(make_experiment(values))
    before = without_seconds(record(values))
    progress = Watching()
    run(make_experiment(changed(values, save_weights=True)), progress)
    assert len(progress.begun) == 1
    assert without_seconds(record(values)) | {"checkpoint": None} == before
    (values["out"] / record(values)["checkpoint"]).unlink()
    run(make_experiment(changed(values, save_weights=True)), progress)
    assert len(progress.begun) == 2


@pytest.mark.parametrize(
    ("change", "method"),
    [
        ({"lora_rank": 2}, "(lora r=2)"),
        ({"lora_rank": 2, "lora_alpha": 4.0}, "(lora r=2 alpha=4)"),
        ({"freeze_layers": 1}, "(without 1 bottom layers)"),
        ({"lora_rank": 2, "lora_targets": "mlp&top-1+value"}, "(lora r=2 on mlp&top-1+value)"),
        ({"train_only": "biases"}, "(biases)"),
        ({"intrinsic_dimension": 9, "train_only": "mlp"}, "(mlp) (intrinsic dimension 9)"),
    ],
)
def test_subsets_have_names_of_their_own_and_stand_beside_the_whole(values, change, method):
    run(make_experiment(values))
    rows = run(make_experiment(changed(values, linearized=True, save_weights=True, **change)))
    assert [row["method"] for row in rows] == [
        *BASELINES, f"sgd fine-tuning {method}", f"sgd fine-tuning {method} (linearized)", "sgd fine-tuning"
    ]  # fmt: skip
    arm = slug(f"sgd fine-tuning {method}")
    assert 0 < record(values, arm)["trained"] < record(values)["trained"]
    weights, _ = load_weights(values["out"] / record(values, arm)["checkpoint"])
    names = {name for name, _ in prompt_model_of(values).named_parameters()}
    assert set(weights) < names


def test_arms_train_side_by_side_at_rates_of_their_own_on_all_texts(values):
    arms = [
        {},
        {"lora_rank": 1, "lora_targets": "query", "rate_factor": 50},
        {"lora_rank": 2, "lora_targets": "query"},
        {"train_only": "biases"},
    ]
    rows = run(make_experiment(changed(values, arms=arms, batch_sizes="all", dropout=False)))
    endings = ["", " (lora r=1 on query)", " (lora r=2 on query)", " (biases)"]
    methods = [f"sgd fine-tuning{ending}" for ending in endings]
    assert [row["method"] for row in rows] == [*BASELINES, *methods]
    rates = {
        method: [one["learning_rate"] for one in record(values, slug(method))["runs"]] for method in methods
    }
    assert rates == {method: [1e-2, 1e-1] for method in methods} | {methods[1]: [0.5, 5.0]}
    assert {one["batch_size"] for method in methods for one in record(values, slug(method))["runs"]} == {4}


def prompt_model_of(values):
    class Words:
        label_ids, label_weights = [5, 6], None

    return PromptModel(load_pretrained(values["model"]).network, Words.label_ids, True, None)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5", "classifier", "adapter"])
def test_every_kind_of_model_is_fine_tuned(values, model, tmp_path, kind):
    writer = {"gpt2": write_gpt2, "llama": write_llama, "t5": write_t5, "classifier": write_classifier}.get(
        kind
    )
    folder = write_adapter(tmp_path / kind, model) if writer is None else writer(tmp_path / kind)
    task = (
        values["own_tasks"][0] | {"template": "{a} it was"}
        if kind in ("gpt2", "llama", "t5")
        else values["own_tasks"][0]
    )
    if kind == "classifier":
        task = {key: value for key, value in task.items() if key not in ("template", "label_words")} | {
            "labels": ["0", "1"]
        }
        folder = write_classifier(tmp_path / kind, names=("0", "1"))
    modes = ["head"] if kind == "classifier" else ["prompt", "head"]
    rows = run(
        make_experiment(
            changed(values | {"model": str(folder), "own_tasks": [task], "modes": modes}, linearized=True)
        )
    )
    assert len(rows) == 3 * len(modes) + 2 * ("prompt" in modes) and all(
        row["test"] is not None for row in rows
    )
    trained = record(values, split=f"films-k2-seed13-{modes[0]}")["trained"]
    assert (trained < 1000) == (kind == "adapter")  # of an adapter its own parameters


def test_mistakes_are_found_before_anything_is_trained(values, model, tmp_path, monkeypatch):
    no_training(monkeypatch)
    adapter = str(write_adapter(tmp_path / "adapter", model))
    for change, words in [
        ({"finetune": ["sgd", "lion"]}, r"finetune\.1: .*'sgd', 'adamw' or 'signgd' \(given: 'lion'\)"),
        ({"finetune": ["sgd", "sgd"]}, "finetune: give each optimizer once"),
        ({"finetune": []}, "formulas: give at least one value"),
        ({"finetuning": {"steps": 0}}, r"finetuning\.steps: .*greater than 0 \(given: 0\)"),
        ({"finetuning": {"learning_rates": [0.0]}}, "rate above 0"),
        ({"finetuning": {"batch_sizes": [0]}}, "size from 1 up"),
        ({"finetuning": {"batch_sizes": "some"}}, "batch_sizes: .*'some' is neither a number nor all"),
        ({"finetuning": {"lora_targets": "mlp"}}, "give the rank too, with lora_rank"),
        ({"finetuning": {"lora_rank": 2, "train_only": "mlp"}}, "train_only: LoRA trains what it adds"),
        (
            {"finetuning": {"lora_rank": 2, "intrinsic_dimension": 5}},
            "intrinsic_dimension: .* one of the two",
        ),
        (
            {"finetuning": {"lora_rank": 2, "arms": [{}]}},
            "lora_rank: with arms each of them says what trains",
        ),
        ({"finetuning": {"arms": [{}, {"train_only": "biasses"}]}}, "no 'biasses' is known"),
        ({"finetuning": {"arms": [{"lora_rank": 2}]}, "biases_only": True}, "biases_only: LoRA "),
        ({"finetuning": {"learning_rate": [1e-3]}}, "no such field"),
        ({"finetuning": {"freeze_layers": 9}}, "9 of the network's 2 layers"),
        ({"finetuning": {"freeze_layers": 1, "lora_rank": 2}}, "one of the two"),
        (
            {"finetuning": {"lora_rank": 2}, "biases_only": True},
            "biases_only: LoRA .*leave out biases_only, or lora_rank",
        ),
        ({"finetuning": {"lora_rank": 2}, "include": ["*layer.1*"]}, "leave out include, or lora_rank"),
        (
            {"finetuning": {"lora_rank": 2}, "without_head": True, "exclude": ["a"]},
            "leave out exclude, without_head, or lora_rank",
        ),
        ({"finetuning": {"lora_rank": 2}, "model": adapter}, "is an adapter already"),
        ({"finetuning": {"export": True}, "model": adapter}, "an adapter cannot be exported"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            run(make_experiment(values | change))
        assert "\n" not in str(caught.value)


def test_a_filter_is_the_kernels_where_nothing_trains(values):
    experiment = make_experiment(
        values
        | {
            "finetune": [],
            "formulas": ["sgd"],
            "biases_only": True,
            "finetuning": {"lora_rank": 2},
            "diagnose": False,
        }
    )
    assert experiment.biases_only and experiment.finetuning.lora_rank == 2


def test_rates_by_optimizer_and_flags_over_a_file(tmp_path, values):
    path = tmp_path / "experiment.toml"
    path.write_text(
        'model = "m"\ntasks = ["sst-2"]\ndata = "d"\nfinetune = ["sgd", "adamw"]\n[finetuning]\nsteps = 10\nloss = "squared"\n'
        "[finetuning.learning_rates]\nsgd = [1e-2, 1e-3]\n"
    )
    experiment = load_experiment(path, {"finetuning": {"steps": 5}})
    how = experiment.finetuning
    assert (
        (how.steps, how.loss) == (5, "squared")
        and how.rates_of("sgd") == (1e-2, 1e-3)
        and how.rates_of("adamw") is None
    )
    arms = module.methods_of_split(experiment, None, 42)
    assert [arm.learning_rates for arm in arms] == [(1e-2, 1e-3), (1e-5, 2e-5, 5e-5)] and arms[
        0
    ].settings.seed == 42
