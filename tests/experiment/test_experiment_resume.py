"""What a run finds again by content: nothing is computed twice, and nothing of other settings is taken."""

from __future__ import annotations

import csv
import json

import pytest
from film_runs import Counting, film_values
from kept import kept_at
from tiny import BASELINES, write_model, write_rows

from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import run
from lmntk.experiment.steps import solve as solving
from lmntk.system.kept import read_record, write_record


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def values(model, tmp_path):
    return film_values(model, tmp_path)


def test_a_rerun_computes_nothing_again(values):
    first = run(make_experiment(values))
    progress = Counting()
    assert run(make_experiment(values), progress) == json.loads(json.dumps(first))
    assert progress.found == (8, 8) and progress.streams == [] and progress.splits == []


@pytest.mark.parametrize("keep_kernels", [True, False])
def test_rows_that_an_earlier_lmntk_did_not_know_come_from_kept_logits(values, monkeypatch, keep_kernels):
    """Nothing else is computed, and results without kept logits stay as they are."""
    small = values | {"modes": ["prompt"], "k": [2], "formulas": ["sgd"], "keep_kernels": keep_kernels}
    new = run(make_experiment(small))
    for path in (values["out"] / "splits").glob("*.json"):
        content = read_record(path)
        content["rows"] = [row for row in content["rows"] if row["method"] not in BASELINES[1:]]
        content["predictions"] = {
            row["method"]: content["predictions"][row["method"]] for row in content["rows"]
        }
        write_record(path, content)
    for name in ("solve_split", "logits_of", "kernels_of"):
        monkeypatch.setattr(solving, name, lambda *a, name=name, **k: pytest.fail(name))
    progress = Counting()
    rows = run(make_experiment(small), progress)
    old = [row for row in new if row["method"] not in BASELINES[1:]]
    assert rows == json.loads(json.dumps(new if keep_kernels else old)) and progress.found == (2, 2)
    assert len(list(csv.DictReader((values["out"] / "results.csv").open()))) == len(rows)


def test_another_solver_uses_the_kernels_that_are_there(values):
    values["modes"] = ["prompt"]
    run(make_experiment(values))
    progress = Counting()
    rows = run(make_experiment(values | {"solvers": ["svc"], "formulas": ["sgd", "signgd"]}), progress)
    assert progress.streams == [] and len(progress.splits) == 4
    solved = {"sgd svc", "signgd svc"}
    assert {row["method"] for row in rows} == {
        *BASELINES,
        "sgd ridge",
        "signgd ridge",
        "asigngd asym",
    } | solved


def test_a_further_formula_computes_that_alone(values):
    small = values | {"modes": ["prompt"], "k": [2], "formulas": ["sgd"]}
    run(make_experiment(small))
    before = (
        (kept_at(values["out"] / "kernels" / "films-k2-seed13-prompt") / "train-sgd.safetensors")
        .stat()
        .st_mtime_ns
    )
    progress = Counting()
    run(make_experiment(small | {"formulas": ["sgd", "signgd"]}), progress)
    assert len(progress.streams) == 1
    assert (
        kept_at(values["out"] / "kernels" / "films-k2-seed13-prompt") / "train-sgd.safetensors"
    ).stat().st_mtime_ns == before


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "change",
    [
        {"template": "the film was {mask}. {a}"},
        {"label_words": ["bad", "good"]},
        {"without_embeddings": True},
        {"all_logits": True},
        {"dtype": "float64"},
        {"keep_noise": True},
        {"untie_head": True},
        {"max_length": 12},
        {"biases_only": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_setting_never_reuses_an_old_result(values, change):
    base = values | {"k": [2], "seeds": [13], "modes": ["prompt"]}
    run(make_experiment(base))
    progress = Counting()
    run(make_experiment(base | change), progress)
    assert progress.found == (1, 0) and len(progress.streams) == 1


def test_changed_weights_or_texts_never_reuse_an_old_result(values, tmp_path):
    base = values | {"k": [2], "seeds": [13], "modes": ["prompt"]}
    first = run(make_experiment(base))
    other = write_model(tmp_path / "other", seed=1)
    progress = Counting()
    run(make_experiment(base | {"model": str(other)}), progress)
    assert progress.found == (1, 0) and len(progress.streams) == 1
    again = Counting()
    assert run(make_experiment(base), again) == first
    assert again.found == (1, 1) and again.streams == []  # the other model's files lie beside
    write_rows(tmp_path / "test.jsonl", 20, offset=4)
    progress = Counting()
    run(make_experiment(base), progress)
    assert progress.found == (1, 0) and len(progress.streams) == 1


def test_an_interrupted_run_resumes_where_it_stopped(values, tmp_path):
    class Interrupting(Counting):
        def finished(self, split, rows):
            super().finished(split, rows)
            if len(self.splits) == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_experiment(values), Interrupting())
    progress = Counting()
    resumed = run(make_experiment(values), progress)
    assert progress.found == (8, 5) and len(progress.splits) == 3
    whole = run(make_experiment(values | {"out": tmp_path / "whole"}))
    assert json.loads(json.dumps(whole)) == json.loads(json.dumps(resumed))
    assert not list(values["out"].rglob("*.partial"))


def test_a_broken_kernel_or_result_file_is_computed_again(values):
    base = values | {"k": [2], "seeds": [13], "modes": ["prompt"]}
    first = run(make_experiment(base))
    kept_at(values["out"] / "splits" / "films-k2-seed13-prompt.json").write_text('{"key": ')
    path = kept_at(values["out"] / "kernels" / "films-k2-seed13-prompt") / "dev-sgd.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    progress = Counting()
    assert run(make_experiment(base), progress) == first
    assert len(progress.streams) == 1


def test_a_changed_configuration_of_the_model_never_reuses_an_old_result(values, tmp_path):
    base = values | {
        "k": [2],
        "seeds": [13],
        "modes": ["prompt"],
        "model": str(write_model(tmp_path / "model")),
    }
    first = run(make_experiment(base))
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace('"num_attention_heads": 2', '"num_attention_heads": 4'))
    progress = Counting()
    run(make_experiment(base), progress)
    assert progress.found == (1, 0) and len(progress.streams) == 1
    assert first


def test_kernels_and_predictions_that_are_gone_come_back(values):
    base = values | {"k": [2], "seeds": [13], "modes": ["prompt"]}
    run(make_experiment(base | {"keep_kernels": False}))
    run(make_experiment(base))
    assert (kept_at(values["out"] / "kernels" / "films-k2-seed13-prompt") / "dev-sgd.safetensors").is_file()
    path = kept_at(values["out"] / "predictions" / "films-k2-seed13-prompt.tsv")
    before = path.read_text()
    path.unlink()
    run(make_experiment(base))
    assert path.read_text() == before
