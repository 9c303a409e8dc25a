"""``lmntk diagnose``: a verdict on every split and way of fine-tuning, from what a run left, found again by content, resumed."""

from __future__ import annotations

import json
import shutil

import pytest
from diagnosed_runs import CELL, changed, diagnosed_values, diagnosis, nothing_is_computed
from kept import kept_at
from tiny import write_adapter, write_gpt2, write_model, write_rows
from typer.testing import CliRunner

from lmntk.cli.app import app
from lmntk.diagnosis.subject import FineTuning
from lmntk.errors import UserError
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.report import verdicts_of
from lmntk.experiment.run import run
from lmntk.experiment.shared_model import shared_models
from lmntk.experiment.start import open_session
from lmntk.experiment.steps import diagnose as diagnoses
from lmntk.experiment.steps import finetune as arms
from lmntk.experiment.steps import kernels as kernel_steps
from lmntk.experiment.steps.diagnose import Diagnose, diagnose_split
from lmntk.finetuning import replay as courses
from lmntk.finetuning.files import load_weights
from lmntk.finetuning.replay import looks, points
from lmntk.finetuning.settings import TrainingSettings, batch_order
from lmntk.models.filters import ParameterFilter
from lmntk.reports.page import build_page
from lmntk.solvers.emulated_training import Training
from lmntk.system.kept import read_record, write_record
from lmntk.system.progress import Silent


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def values(model, tmp_path):
    return diagnosed_values(model, tmp_path)


def test_a_diagnosis_is_that_of_the_weights_that_fine_tuning_kept(values):
    values = changed(values, save_weights=True)
    experiment = make_experiment(values)
    run(experiment)
    found = diagnosis(values)
    record = json.loads(kept_at(values["out"] / "finetunings" / f"{CELL}-sgd-fine-tuning.json").read_text())
    weights, _ = load_weights(values["out"] / record["checkpoint"])
    (shared,) = shared_models(open_session(experiment, Silent()))
    chosen = record["runs"][record["chosen"]]
    order = batch_order(4, 2, 4, 13)
    training = Training("sgd", 1e-1, 4, batch_size=2, clip=1.0, batches=order, best_step=chosen["best_step"])
    (job,) = Diagnose().of(shared)
    tuning = FineTuning(weights, ParameterFilter().select(shared.model), training)
    again = diagnose_split(shared, job, tuning, None).as_dict()
    assert found["verdict"] == again["verdict"] and found["numbers"].keys() == again["numbers"].keys()
    for name, value in again["numbers"].items():
        if not name.startswith("emulation_"):  # which look at more steps along the way
            assert found["numbers"][name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
    assert [point["step"] for point in found["trajectory"]] == [2, 4] and found["emulation"]["steps"] == [
        0,
        2,
        4,
    ]
    assert (
        found["numbers"]["fine_tuned"] == record["test"]
        and found["trajectory"][-1]["dev"] == chosen["curve"][-1]["dev"]
    )
    assert (
        found["format"] == "lmntk diagnosis 3"
        and found["method"] == "sgd fine-tuning"
        and found["split"] == CELL
    )
    assert not (values["out"] / "scratch").exists()


def test_without_a_checkpoint_the_training_is_done_once_more_to_the_same_bits(values):
    run(make_experiment(changed(values, save_weights=True)))
    kept = diagnosis(values)
    shutil.rmtree(values["out"])
    run(make_experiment(values))
    assert diagnosis(values) == kept


def test_the_page_leaves_out_a_diagnosis_of_another_training_or_prompt(values):
    run(make_experiment(values))
    page = values["out"] / "report.html"
    assert "paper's three tests" in page.read_text()
    kept = kept_at(values["out"] / "diagnoses" / f"{CELL}-sgd-fine-tuning.json").read_bytes()
    run(make_experiment(changed(values, steps=2) | {"diagnose": False}))
    assert "paper's three tests" not in page.read_text() and "1 of diagnoses have other" in page.read_text()
    own = [values["own_tasks"][0] | {"template": "{a} a {mask} film."}]
    run(make_experiment(values | {"own_tasks": own, "diagnose": False, "finetune": [], "formulas": ["sgd"]}))
    assert "paper's three tests" not in page.read_text() and "2 of finetunings have other" in page.read_text()
    run(make_experiment(values | {"diagnose": False}))
    assert "paper's three tests" in page.read_text()
    assert kept_at(values["out"] / "diagnoses" / f"{CELL}-sgd-fine-tuning.json").read_bytes() == kept


def test_what_head_mode_reads_is_part_of_a_prompts_diagnosis(values):
    run(make_experiment(values))
    read = diagnosis(values)
    run(make_experiment(values | {"features": "mean"}))
    mean = diagnosis(values)
    assert read["numbers"]["chi_with_prompt"] == mean["numbers"]["chi_with_prompt"]
    assert read["numbers"]["chi_without_prompt"] != mean["numbers"]["chi_without_prompt"]


def test_what_is_there_is_taken_and_nothing_twice(values, monkeypatch):
    first = run(make_experiment(values | {"diagnose": False, "formulas": ["sgd", "signgd"]}))
    assert not (values["out"] / "diagnoses").exists()
    with monkeypatch.context() as only:
        only.setattr(arms, "search", lambda *a, **k: pytest.fail("trained a grid"))
        only.setattr(kernel_steps, "stream_kernels", lambda *a, **k: pytest.fail("computed a kernel"))
        assert run(make_experiment(values)) == json.loads(json.dumps(first))  # the rows of the kernels stay
    page = (values["out"] / "report.html").read_text()
    assert "sgd fine-tuning" in page and diagnosis(values)["verdict"] in page
    nothing_is_computed(monkeypatch)
    before = diagnosis(values)
    run(make_experiment(values))
    assert diagnosis(values) == before


def test_an_interruption_costs_no_more_than_what_was_at_work(values, monkeypatch):
    values |= {"finetune": ["sgd", "signgd"]}
    real, seen = diagnoses.diagnose_split, []

    def stopping(*arguments):
        seen.append(arguments)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as cut:
        cut.setattr(diagnoses, "diagnose_split", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(make_experiment(values))
    first = diagnosis(values)
    monkeypatch.setattr(arms, "search", lambda *a, **k: pytest.fail("trained a grid"))
    monkeypatch.setattr(courses, "fine_tune", lambda *a, **k: pytest.fail("trained once more"))
    monkeypatch.setattr(kernel_steps, "stream_kernels", lambda *a, **k: pytest.fail("computed a kernel"))
    run(make_experiment(values))
    assert (
        diagnosis(values) == first
        and diagnosis(values, "signgd-fine-tuning")["method"] == "signgd fine-tuning"
    )
    assert not (values["out"] / "scratch").exists()


def stopped_before_its_diagnosis(values, monkeypatch):
    """Run until a training is done and not diagnosed yet."""

    def stopping(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(diagnoses, "diagnose_split", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(make_experiment(values))


def test_what_a_diagnosis_of_other_settings_began_is_removed(values, monkeypatch):
    stopped_before_its_diagnosis(values, monkeypatch)
    (begun,) = (values["out"] / "scratch").glob("diagnosis-*")
    assert (begun / "work.json").is_file() and list(begun.glob("step-*"))
    run(make_experiment(changed(values, steps=5)))
    assert diagnosis(values)["method"] == "sgd fine-tuning" and not (values["out"] / "scratch").exists()


def test_a_training_that_is_done_again_leaves_nothing_beside_its_diagnosis(values):
    run(make_experiment(values))
    first = diagnosis(values)
    run(make_experiment(changed(values, save_weights=True)))  # which trains again
    assert diagnosis(values) == first
    assert not (values["out"] / "scratch").exists()


def test_weights_along_a_training_that_nobody_will_diagnose_are_removed(values, monkeypatch):
    stopped_before_its_diagnosis(values, monkeypatch)
    assert list((values["out"] / "scratch").glob("diagnosis-*"))
    run(make_experiment(values | {"diagnose": False}))
    assert not (values["out"] / "scratch").exists()


def test_a_training_is_not_done_twice(values, monkeypatch):
    monkeypatch.setattr(courses, "fine_tune", lambda *a, **k: pytest.fail("trained once more"))
    run(make_experiment(values))
    assert diagnosis(values)["trajectory"]


def test_a_training_that_diverges_is_undecided_and_the_rest_goes_on(values):
    values = changed(values, learning_rates={"sgd": [1e30], "signgd": [1e-3]}, max_grad_norm=0) | {
        "finetune": ["sgd", "signgd"]
    }
    run(make_experiment(values))
    found = diagnosis(values)
    assert found["verdict"] == "undecided" and "diverged" in found["reason"] and "1e+30" in found["reason"]
    assert (
        found["numbers"]["fine_tuned"] is None
        and found["numbers"]["kernel"] is not None
        and found["spectrum"]
    )
    assert diagnosis(values, "signgd-fine-tuning")["numbers"]["fine_tuned"] is not None
    assert build_page([values["out"]])


def test_a_diagnosis_of_before_the_emulation_had_a_move_error_is_read(values):
    run(make_experiment(values))
    (path,) = (values["out"] / "diagnoses").glob("*.json")
    old = read_record(path)
    assert 0 < old["numbers"].pop("emulation_move_error") == old["emulation"].pop("move_error")
    assert old["numbers"].pop("emulation_test_error") > 0 and old["numbers"].pop("emulated") >= 0
    write_record(path, old)
    run(make_experiment(values))
    assert read_record(path) == old  # and not made anew
    (verdict,) = verdicts_of(values["out"])["verdicts"]
    assert "emulation_error" in verdict["numbers"] and "emulation_move_error" not in verdict["numbers"]
    assert verdict["regime"]["error"] == old["numbers"]["logit_error"]  # what there is, said so
    assert "linearized at the reached weights" in verdict["regime"]["about"]
    assert "emulation" in build_page([values["out"]])


def test_of_train_texts_of_one_class_the_kernel_is_not_solved_and_the_rest_goes_on(values, tmp_path):
    for seed, labels in (
        (13, "1111"),
        (21, "0101"),
    ):  # ready-made splits: nothing else lets such a train set pass
        (folder := tmp_path / "sst-2" / f"2-{seed}").mkdir(parents=True)
        for part, those in (("train", labels), ("dev", "0101"), ("test", "00101101")):
            lines = [
                f"{'good' if label == '1' else 'bad'} film {place}\t{label}"
                for place, label in enumerate(those)
            ]
            (folder / f"{part}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    prompt = {name: values["own_tasks"][0][name] for name in ("template", "label_words")}
    run(
        make_experiment(
            values | prompt | {"own_tasks": [], "tasks": ["sst-2"], "data": str(tmp_path), "seeds": [13, 21]}
        )
    )
    found = diagnosis(values, split="sst-2-k2-seed13-prompt")
    assert (
        found["tests"][0]["passed"] is None
        and "not solved: all 4 train texts are of one class" in found["tests"][0]["sentence"]
    )
    assert (
        found["numbers"]["kernel"] is None
        and found["predictions"]["kernel"] is None
        and found["spectrum"] is None
    )
    assert (
        found["numbers"]["kernel_distance"] is not None
        and found["emulation"] is not None
        and found["verdict"] != "kernel-like"
    )
    assert diagnosis(values, split="sst-2-k2-seed21-prompt")["numbers"]["kernel"] is not None
    (verdict,) = verdicts_of(values["out"])["verdicts"]
    assert verdict["splits"] == 2 and "was not solved in every split" in verdict["tests"][0]["sentence"]
    assert "was not solved in every split" in build_page([values["out"]])


@pytest.mark.parametrize(
    "change",
    [
        {"lora_rank": 2},
        {"freeze_layers": 1},
        {"train_only": "norms"},
        {"lora_rank": 2, "lora_targets": "mlp"},
        {"intrinsic_dimension": 9},
    ],
)
def test_of_a_subset_its_own_kernels_are_taken(values, change):
    values = changed(values, **change)
    run(make_experiment(values))
    (path,) = (values["out"] / "diagnoses").glob("*.json")
    found = json.loads(path.read_text())
    assert found["numbers"]["kernel_distance"] is not None and found["emulation"] is not None
    assert not (values["out"] / "kernels").exists()


@pytest.mark.parametrize("kind", ["gpt2", "adapter", "head"])
def test_other_kinds_and_the_head(values, model, tmp_path, kind):
    if kind == "gpt2":
        values = values | {"model": str(write_gpt2(tmp_path / kind))}
        values["own_tasks"] = [values["own_tasks"][0] | {"template": "{a} it was"}]
    elif kind == "adapter":
        values = values | {"model": str(write_adapter(tmp_path / kind, model))}
    else:
        values = values | {"modes": ["head"], "seeds": [13, 21]}
    run(make_experiment(values))
    found = [json.loads(path.read_text()) for path in sorted((values["out"] / "diagnoses").glob("*.json"))]
    assert len(found) == (2 if kind == "head" else 1) and all(
        one["numbers"]["logit_error"] is not None for one in found
    )
    (verdict,) = verdicts_of(values["out"])["verdicts"]
    assert verdict["splits"] == len(found) and len(verdict["tests"]) == 3


def test_points_along_a_training():
    assert looks(TrainingSettings(steps=10, eval_every=4)) == [4, 8, 10] and looks(
        TrainingSettings(steps=3, eval_every=3)
    ) == [3]
    assert points([4, 8, 10], 5) == [4, 8, 10] and points([4, 8, 10], 1) == [10]


def test_mistakes(values):
    with pytest.raises(UserError, match="diagnose: it diagnoses fine-tuning; add finetune"):
        make_experiment(values | {"finetune": [], "formulas": ["sgd"]})
    with pytest.raises(UserError, match="finetuned: a checkpoint can only be diagnosed"):
        make_experiment(values | {"finetuned": "x", "diagnose": False})
    with pytest.raises(UserError, match="verdicts: there are none in"):
        verdicts_of(values["out"])
    with pytest.raises(UserError, match="diagnose: give --model"):
        CliRunner().invoke(app, ["diagnose"], catch_exceptions=False)


def test_a_dev_set_of_one_class(values, tmp_path):
    for side, count in (("train", 6), ("dev", 4), ("test", 8)):
        rows = [json.loads(line) for line in write_rows(tmp_path / "rows.jsonl", 12).read_text().splitlines()]
        rows = [row for row in rows if side != "dev" or row["label"] == 1][:count]
        folder = tmp_path / "data" / "sst-2" / "2-13"
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["sentence\tlabel", *(f"{row['text_a']}\t{row['label']}" for row in rows)]
        (folder / f"{side}.tsv").write_text("\n".join(lines) + "\n")
    values = {name: value for name, value in values.items() if name != "own_tasks"} | {
        "tasks": ["sst-2"],
        "data": str(tmp_path / "data"),
    }
    run(make_experiment(values | {"label_words": ["terrible", "great"], "template": "{a} it was {mask}."}))
    (path,) = (values["out"] / "diagnoses").glob("*.json")
    found = json.loads(path.read_text())
    assert (
        found["verdict"] in ("kernel-like", "not", "undecided") and found["numbers"]["fine_tuned"] is not None
    )
    record = json.loads(next((values["out"] / "finetunings").glob("*.json")).read_text())
    assert any("one class only" in note for note in record["notes"])
