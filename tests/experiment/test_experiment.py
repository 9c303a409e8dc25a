"""Whole runs on a tiny model: results, resume, and nothing old reused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from film_runs import Counting, film_values
from kept import kept_at
from sklearn.linear_model import LogisticRegression
from tiny import BASELINES, write_model
from transformers import AutoModel, AutoTokenizer

from lmntk.errors import UserError
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import Silent, run
from lmntk.experiment.steps import kernels as kernel_steps
from lmntk.experiment.steps import solve as solving
from lmntk.kernels.kernel import Kernel
from lmntk.reports import page
from lmntk.system.kept import load_arrays
from lmntk.tasks import read_jsonl


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def values(model, tmp_path):
    return film_values(model, tmp_path)


def test_a_run_writes_tidy_results_kernels_and_predictions(values):
    progress = Counting()
    rows = run(make_experiment(values), progress)
    out = values["out"]
    assert progress.found == (8, 0) and len(progress.splits) == 8
    assert progress.amount == pytest.approx(progress.total)  # the bar ends at 100 %
    methods = {(row["mode"], row["method"]) for row in rows}
    kernel_methods = {"sgd ridge", "signgd ridge", "asigngd asym"}
    assert methods == {("prompt", m) for m in kernel_methods | set(BASELINES)} | {
        ("head", m) for m in kernel_methods | {"linear probe"}
    }
    table = list(csv.DictReader((out / "results.csv").open()))
    assert len(table) == len(rows) == 4 * (3 + 3) + 4 * (1 + 3)
    assert all(0 <= float(line["test"]) <= 1 and float(line["dev"]) >= 0 for line in table)
    kernel = Kernel.load(kept_at(out / "kernels" / "films-k4-seed13-prompt") / "test-asigngd.safetensors")
    assert kernel.values.shape == kernel.flipped.shape == (8, 1, 20, 1)
    assert not np.allclose(kernel.values, kernel.flipped)
    train = Kernel.load(kept_at(out / "kernels" / "films-k4-seed13-prompt") / "train-sgd.safetensors").values[
        :, 0, :, 0
    ]
    np.testing.assert_allclose(train, train.T, rtol=1e-5)
    logits, _ = load_arrays(kept_at(out / "kernels" / "films-k4-seed13-prompt") / "logits.safetensors")
    assert logits["test"].shape == (20, 1)
    lines = kept_at(out / "predictions" / "films-k4-seed13-prompt.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["row", "label", *BASELINES, "sgd ridge", "signgd ridge", "asigngd asym"]
    right = np.mean([line.split("\t")[1] == line.split("\t")[5] for line in lines[1:]])
    sgd = next(
        r
        for r in rows
        if r["method"] == "sgd ridge" and r["k"] == 4 and r["seed"] == 13 and r["mode"] == "prompt"
    )
    assert right == pytest.approx(sgd["test"])
    summary = (out / "summary.md").read_text()
    mean = 100 * np.mean(
        [r["test"] for r in rows if r["method"] == "sgd ridge" and r["k"] == 4 and r["mode"] == "prompt"]
    )
    assert f"| 4 | prompt | sgd ridge | {mean:.1f} (" in summary and "linear probe" in summary
    html = (out / "report.html").read_text()
    assert (
        f'<span class="mean">{mean:.1f}</span>' in html and html.count("<svg") == 1 + 4 * 2
    )  # accuracy; four splits' matrix and spectrum
    stored = json.loads((out / "configuration.json").read_text())
    assert stored["experiment"]["k"] == [2, 4] and stored["versions"]["torch"] and stored["earlier"] == []


def test_what_other_formulas_reached_stays_beside_what_is_asked_for(values, monkeypatch):
    small = values | {"k": [2], "seeds": [13], "modes": ["prompt"]}

    def methods():
        split = max((values["out"] / "splits").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        table = values["out"] / "predictions" / f"{split.stem}.tsv"
        titles = table.read_text().split("\n")[0].split("\t")[2:]
        found = {row["method"]: row for row in json.loads(split.read_text())["rows"]}
        assert sorted(titles) == sorted(found)
        return found

    run(make_experiment(small | {"formulas": ["signgd"]}))
    first = methods()
    rows = run(make_experiment(small | {"formulas": ["sgd", "asigngd"]}))
    every = methods()
    assert (
        list(every) == [*BASELINES, "sgd ridge", "asigngd asym", "signgd ridge"]
        and every["signgd ridge"] == first["signgd ridge"]
    )
    assert [row["method"] for row in rows] == list(every)
    whole = run(make_experiment(small | {"out": values["out"] / "whole"}))
    without_setup = {
        method: {name: value for name, value in row.items() if name != "setup"}
        for method, row in every.items()
    }
    assert {row["method"]: row for row in json.loads(json.dumps(whole))} == without_setup
    with monkeypatch.context() as patched:
        patched.setattr(solving, "solve_split", lambda *a: pytest.fail("solved"))
        run(make_experiment(small | {"formulas": ["sgd"]}))
        run(make_experiment(small))
    assert methods() == every
    run(make_experiment(small | {"formulas": ["sgd"], "dtype": "float64"}))
    assert list(methods()) == [*BASELINES, "sgd ridge"]
    assert len(list((values["out"] / "splits").glob("*.json"))) == 2  # the others' lie beside


def test_the_page_is_of_the_model_that_was_run_last_though_nothing_was_computed(values, tmp_path):
    small = values | {"k": [2], "seeds": [13], "modes": ["prompt"], "formulas": ["sgd"]}
    run(make_experiment(small))
    first = [(values["out"] / name).read_text() for name in ("results.csv", "report.html")]
    run(make_experiment(small | {"model": str(write_model(tmp_path / "other", seed=1)), "seeds": [21]}))
    run(make_experiment(small))
    csv_text, page_text = ((values["out"] / name).read_text() for name in ("results.csv", "report.html"))
    assert (
        csv_text == first[0]
        and "over the splits 21" not in page_text
        and "1 splits in out have other weights" in page_text
    )


def test_a_folder_remembers_the_settings_of_earlier_runs(values):
    small = values | {"k": [2], "seeds": [13], "modes": ["prompt"], "formulas": ["sgd"]}
    for seeds in ([13], [21], [13], [13, 21]):
        run(make_experiment(small | {"seeds": seeds}))
    stored = json.loads((values["out"] / "configuration.json").read_text())
    assert stored["experiment"]["seeds"] == [13, 21] and [one["seeds"] for one in stored["earlier"]] == [
        [13],
        [21],
    ]
    html = (values["out"] / "report.html").read_text()
    assert (
        "2 earlier runs of this model" in html
        and "<code>seeds = [ 21, ] </code>" in " ".join(html.split())
        and "<code>seeds = [ 13, ] </code>" in " ".join(html.split())
    )


def test_a_run_without_the_libraries_of_the_page_says_so_and_ends_well(values, monkeypatch):
    class Noting(Silent):
        notes: ClassVar[list[str]] = []

        def note(self, line):
            self.notes.append(line)

    monkeypatch.setattr(page, "NEEDED", ("no_such_library",))
    rows = run(make_experiment(values | {"k": [2], "seeds": [13], "modes": ["prompt"]}), Noting())
    assert len(rows) == 3 + 3 and not (values["out"] / "report.html").exists()
    assert any("no_such_library missing; pip install 'lmntk[report]'" in line for line in Noting.notes)


def test_each_cell_of_a_shared_stream_equals_the_cell_alone(values, tmp_path):
    run(make_experiment(values))
    alone = values | {
        "k": [4],
        "seeds": [21],
        "modes": ["prompt"],
        "out": tmp_path / "alone",
        "batch_size": 3,
    }
    run(make_experiment(alone))
    for side in ("train", "dev", "test"):
        for formula in ("sgd", "signgd", "asigngd"):
            together, single = (
                Kernel.load(
                    kept_at(out / "kernels" / "films-k4-seed21-prompt") / f"{side}-{formula}.safetensors"
                )
                for out in (values["out"], tmp_path / "alone")
            )
            scale = np.abs(single.values).max()
            assert (
                np.abs(together.values - single.values).max() <= (1e-5 if formula == "sgd" else 2e-3) * scale
            )


def test_one_folder_keeps_the_results_of_several_runs_on_a_model(values):
    base = values | {"seeds": [13], "modes": ["prompt"]}
    run(make_experiment(base | {"k": [2]}))
    run(make_experiment(base | {"k": [4]}))
    table = list(csv.DictReader((values["out"] / "results.csv").open()))
    assert {line["k"] for line in table} == {"2", "4"}


def test_head_mode_needs_no_masked_word_head(values, model, tmp_path):
    AutoModel.from_pretrained(model).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "base")
    base = values | {"k": [2], "seeds": [13], "modes": ["head"]}
    whole = run(make_experiment(base))
    assert (
        run(make_experiment(base | {"model": str(tmp_path / "base"), "out": tmp_path / "headless"})) == whole
    )
    with pytest.raises(UserError, match="no masked-language-model head"):
        run(make_experiment(base | {"model": str(tmp_path / "base"), "modes": ["prompt"]}))


def test_classes_and_versions_are_written_down(values):
    run(make_experiment(values | {"k": [2], "seeds": [13], "modes": ["prompt"]}))
    summary = (values["out"] / "summary.md").read_text()
    assert "0 = 'terrible', 1 = 'great'" in summary and "## Medians" in summary
    assert json.loads(kept_at(values["out"] / "splits" / "films-k2-seed13-prompt.json").read_text())[
        "versions"
    ]["torch"]


def test_without_kernels_on_disk_the_results_are_the_same(values):
    base = values | {"k": [2], "seeds": [13], "modes": ["prompt"]}
    kept = run(make_experiment(base))
    shutil.rmtree(values["out"])
    assert run(make_experiment(base | {"keep_kernels": False})) == kept
    assert not (values["out"] / "kernels").exists()


def test_groups_sum_to_the_kernel(values):
    run(make_experiment(values | {"k": [2], "seeds": [13], "modes": ["prompt"], "groups": True}))
    kernel = Kernel.load(
        kept_at(values["out"] / "kernels" / "films-k2-seed13-prompt") / "test-sgd.safetensors"
    )
    assert set(kernel.groups) == {"embeddings", "layer.00", "layer.01", "head"}
    np.testing.assert_allclose(sum(kernel.groups.values()), kernel.values, rtol=1e-12)


def test_head_mode_starts_at_the_linear_probe(values, model):
    rows = run(make_experiment(values | {"k": [4], "seeds": [13], "modes": ["head"]}))
    logits, _ = load_arrays(
        kept_at(values["out"] / "kernels" / "films-k4-seed13-head") / "logits.safetensors"
    )
    split = json.loads(kept_at(values["out"] / "splits" / "films-k4-seed13-head.json").read_text())[
        "row_numbers"
    ]
    network, tokenizer = AutoModel.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    texts = {side: read_jsonl(Path(values["own_tasks"][0][side])) for side in ("train", "test")}

    def features(examples):
        with torch.no_grad():
            encoded = [tokenizer(example.text_a, return_tensors="pt") for example in examples]
            return torch.cat([network(**one).last_hidden_state[:, 0] for one in encoded]).double().numpy()

    train = [texts["train"][row] for row in split["train"]]
    probe = LogisticRegression(max_iter=10_000).fit(features(train), [example.label for example in train])
    np.testing.assert_allclose(
        logits["test"][:, 0], probe.decision_function(features(texts["test"])), rtol=1e-3, atol=1e-4
    )
    expected = probe.score(features(texts["test"]), [example.label for example in texts["test"]])
    assert next(row for row in rows if row["method"] == "linear probe")["test"] == pytest.approx(expected)


def test_mistakes_are_found_before_anything_is_computed(values, monkeypatch):
    monkeypatch.setattr(kernel_steps, "stream_kernels", lambda *a, **k: pytest.fail("computed something"))
    for change, words in [
        ({"k": [4, 21]}, "largest k possible"),
        ({"label_words": ["terrible", "superb"]}, "superb"),
        ({"label_words": ["terrible", "great", "dull"]}, "3 label words for 2 classes"),
        ({"template": "{a} it was"}, "no mask"),
        ({"max_length": 4}, "use at least"),
        ({"include": ["*.layer.77.*"]}, "no name matches"),
        ({"solvers": ["asym"], "formulas": ["sgd"]}, "none of asym takes sgd"),
        ({"solvers": ["ridge", "asym"], "formulas": ["sgd"]}, "asym takes asigngd"),
        ({"template": "{a} {mask} {b}"}, "no second text"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            run(make_experiment(values | change))
        assert "\n" not in str(caught.value)


def test_a_test_file_with_an_unknown_label_is_named(values, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"text_a": "a good film", "label": 7}\n')
    with pytest.raises(UserError, match=r"test\.jsonl.*7"):
        run(make_experiment(values))
