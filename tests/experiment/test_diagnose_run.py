"""``lmntk diagnose``: a verdict on every split and way of fine-tuning, from what a run left, found again by content, resumed."""

from __future__ import annotations

import html
import json
import shutil

import pytest
from kept import kept_at, latest_at
from safetensors.torch import load_file, save_file
from tiny import films, write_adapter, write_gpt2, write_model, write_rows
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
from lmntk.experiment.steps.diagnose import Diagnose, diagnose_split, given_checkpoint
from lmntk.finetuning import replay as courses
from lmntk.finetuning.files import load_weights
from lmntk.finetuning.replay import looks, points
from lmntk.finetuning.settings import TrainingSettings, batch_order
from lmntk.models.filters import ParameterFilter
from lmntk.reports.page import build_page
from lmntk.solvers.emulated_training import Training
from lmntk.system.kept import read_record, write_record
from lmntk.system.progress import Silent

CELL = "films-k2-seed13-prompt"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def values(model, tmp_path):
    own = films(tmp_path, 40, 12)
    how = {"learning_rates": [1e-1], "batch_sizes": [2], "steps": 4, "eval_every": 2}
    return {
        "model": str(model), "own_tasks": [own], "k": [2], "seeds": [13], "formulas": [], "finetune": ["sgd"], "finetuning": how,
        "diagnose": True, "out": tmp_path / "out",
    }  # fmt: skip


def changed(values, **change):
    return values | {"finetuning": values["finetuning"] | change}


def diagnosis(values, arm="sgd-fine-tuning", split=CELL):
    return json.loads(latest_at(values["out"] / "diagnoses" / f"{split}-{arm}.json").read_text())


class Noting(Silent):
    def __init__(self):
        self.notes = []

    def note(self, line):
        self.notes.append(line)


def nothing_is_computed(monkeypatch):
    monkeypatch.setattr(arms, "search", lambda *a, **k: pytest.fail("trained a grid"))
    monkeypatch.setattr(courses, "fine_tune", lambda *a, **k: pytest.fail("trained once more"))
    monkeypatch.setattr(diagnoses, "diagnose_split", lambda *a, **k: pytest.fail("diagnosed again"))
    monkeypatch.setattr(kernel_steps, "stream_kernels", lambda *a, **k: pytest.fail("computed a kernel"))


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
    assert "paper's three tests" not in page.read_text() and "1 of diagnoses are of other" in page.read_text()
    own = [values["own_tasks"][0] | {"template": "{a} a {mask} film."}]
    run(make_experiment(values | {"own_tasks": own, "diagnose": False, "finetune": [], "formulas": ["sgd"]}))
    assert (
        "paper's three tests" not in page.read_text() and "2 of finetunings are of other" in page.read_text()
    )
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


def test_what_a_diagnosis_of_other_settings_began_is_removed(values, monkeypatch):
    def stopping(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(diagnoses, "diagnose_split", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(make_experiment(values))
    (begun,) = (values["out"] / "scratch").glob("diagnosis-*")
    assert (begun / "work.json").is_file() and list(begun.glob("step-*"))
    run(make_experiment(changed(values, steps=5)))
    assert diagnosis(values)["method"] == "sgd fine-tuning" and not (values["out"] / "scratch").exists()


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


@pytest.mark.parametrize("change", [{"lora_rank": 2}, {"freeze_layers": 1}])
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
    with pytest.raises(UserError, match="diagnose: it is fine-tuning that is diagnosed; add finetune"):
        make_experiment(values | {"finetune": [], "formulas": ["sgd"]})
    with pytest.raises(UserError, match="finetuned: a checkpoint is there to be diagnosed"):
        make_experiment(values | {"finetuned": "x", "diagnose": False})
    with pytest.raises(UserError, match="verdicts: there are none in"):
        verdicts_of(values["out"])
    with pytest.raises(UserError, match="diagnose: give --model"):
        CliRunner().invoke(app, ["diagnose"], catch_exceptions=False)


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


def test_signgd_is_held_against_adam(values, monkeypatch):
    run(make_experiment(values | {"finetune": ["adamw"], "seeds": [13, 21]}))
    assert "signgd" not in diagnosis(values, "adamw-fine-tuning")["numbers"]
    real, made = diagnoses.diagnose_split, []
    monkeypatch.setattr(
        diagnoses,
        "diagnose_split",
        lambda shared, job, *rest: (made.append(job.subject.method), real(shared, job, *rest))[1],
    )
    run(make_experiment(values | {"finetune": ["signgd", "adamw"], "seeds": [13, 21]}))
    assert set(made) == {"signgd fine-tuning"}  # the other's diagnosis is not made again
    said = verdicts_of(values["out"])
    assert [(one["method"], one["splits"]) for one in said["verdicts"]] == [
        ("adamw fine-tuning", 2),
        ("signgd fine-tuning", 2),
    ]
    (one,) = said["comparisons"]
    assert one["splits"] == 2 and "over 2 splits" in one["sentence"] and 0 <= one["agreement"] <= 1
    means = {verdict["method"].split()[0]: verdict["numbers"]["fine_tuned"] for verdict in said["verdicts"]}
    assert (one["first"], one["second"]) == pytest.approx((means["signgd"], means["adamw"]))
    assert one["sentence"] in (values["out"] / "summary.md").read_text()
    page = html.unescape(
        (values["out"] / "report.html").read_text()
    )  # says what is printed, not what most splits say
    assert page.count("over 2 splits") >= 2 and all(
        verdict["reason"][1:] in page for verdict in said["verdicts"]
    )


def test_adam_is_held_against_the_kernel_of_adam_where_the_run_has_it(values):
    run(make_experiment(values | {"finetune": ["sgd", "adamw"]}))
    assert [diagnosis(values, f"{arm}-fine-tuning")["formula"] for arm in ("sgd", "adamw")] == ["sgd", "sgd"]
    rows = run(
        make_experiment(
            values
            | {"finetune": ["sgd", "adamw"], "formulas": ["sgd", "asigngd"], "solvers": ["ridge", "asym"]}
        )
    )
    tests = {row["method"]: row["test"] for row in rows}
    for arm, formula in (("sgd", "sgd"), ("adamw", "asigngd")):
        found = diagnosis(values, f"{arm}-fine-tuning")
        solver = {"sgd": "ridge", "asigngd": "asym"}[formula]
        assert found["formula"] == formula and found["numbers"]["kernel"] == pytest.approx(
            tests[f"{formula} {solver}"]
        )
        assert f"the {formula} kernel's accuracy" in found["tests"][0]["sentence"]
        assert [len(one) for one in found["predictions"].values()] == [12] * (
            5 if arm == "sgd" else 4
        )  # SGD's emulated


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
    monkeypatch.setattr("lmntk.experiment.run.run", lambda experiment, *_: asked.append(experiment) or [])
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


def test_the_command_prints_a_verdict_a_task(values):
    task = values["own_tasks"][0]
    words = [
        "diagnose", "--model", values["model"], "--train", task["train"], "--test", task["test"], "--text-column", "text_a",
        "--template", task["template"], "--label-words", "terrible,great", "--k", "2", "--seeds", "13,21", "--optimizers", "signgd,adamw",
        "--learning-rates", "1e-3", "--batch-sizes", "2", "--steps", "3", "--eval-every", "2", "--out", str(values["out"]),
    ]  # fmt: skip
    printed = CliRunner().invoke(app, words, catch_exceptions=False)
    said = printed.stdout
    assert printed.exit_code == 0 and "own, k = 2, prompt, signgd fine-tuning (2 splits): " in said
    assert said.count("the model linearized at the reached weights, in place of an emulation, misses") == 2
    assert (
        said.count("solves ") == 2 and said.count("fixed features") >= 2 and "signgd fine-tuning has" in said
    )
    found = json.loads(CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).stdout)
    assert [one["method"] for one in found["verdicts"]] == ["adamw fine-tuning", "signgd fine-tuning"]
    run_words = ["run", *words[1:], "--formulas", "sgd", "--diagnose"]
    run_words[run_words.index("--optimizers")] = "--finetune"
    assert (
        "own, k = 2, prompt, adamw fine-tuning (2 splits): "
        in CliRunner().invoke(app, run_words, catch_exceptions=False).stdout
    )


def test_verdicts_are_of_all_that_the_folder_holds(values):
    run(make_experiment(values | {"seeds": [13, 21]}))
    other = [values["own_tasks"][0] | {"name": "books"}]
    run(make_experiment(values | {"own_tasks": other}))
    run(make_experiment(values | {"seeds": [42], "diagnose": False}))
    found = [(one["task"], one["splits"]) for one in verdicts_of(values["out"])["verdicts"]]
    assert sorted(found) == [("books", 1), ("films", 2)]
    summary = (values["out"] / "summary.md").read_text()
    assert "* films, k = 2, prompt, sgd fine-tuning: **" in summary and "* books, k = 2" in summary


def test_splits_of_other_settings_make_no_mean_with_the_last(values):
    run(make_experiment(values | {"seeds": [13, 42]}))
    run(make_experiment(changed(values, steps=5) | {"seeds": [21, 42]}))
    (verdict,) = verdicts_of(values["out"])["verdicts"]
    assert verdict["splits"] == 2
    for text in ((values["out"] / name).read_text() for name in ("summary.md", "report.html")):
        assert "films, sgd fine-tuning: split 13 had other settings than the last run" in text
    lines = (values["out"] / "results.csv").read_text().splitlines()
    assert sorted(line.split(",")[2] for line in lines if "sgd fine-tuning" in line) == ["21", "42"]
    run(make_experiment(values | {"seeds": [13]}))  # the first settings are now the last ones
    lines = (values["out"] / "results.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines if "sgd fine-tuning" in line] == ["13", "42"]


def test_verdicts_do_not_mix_kernels_of_other_precision(values):
    run(make_experiment(values | {"seeds": [13], "precision": "bfloat16"}))
    run(make_experiment(values | {"seeds": [21]}))
    (verdict,) = verdicts_of(values["out"])["verdicts"]
    assert (
        verdict["splits"] == 1
        and "diagnosis, films, sgd fine-tuning: split 13 had other settings"
        in (values["out"] / "summary.md").read_text()
    )
