"""The configuration: one line that names the wrong field."""

from __future__ import annotations

import pytest

from lmntk.errors import UserError
from lmntk.experiment.configuration import load_experiment, make_experiment
from lmntk.system.memory import parse_bytes

GOOD = {"model": "m", "data": "d", "tasks": "sst-2"}


def test_one_value_is_a_list_of_one_and_commas_separate():
    experiment = make_experiment(GOOD | {"k": 16, "tasks": "sst-2,mr", "formulas": "sgd"})
    assert experiment.k == (16,) and experiment.tasks == ("sst-2", "mr") and experiment.formulas == ("sgd",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "mr"}, "task: no such field; did you mean 'tasks'"),
        ({"tasks": "sst-3"}, "tasks: 'sst-3' is not one of"),
        ({"k": [0]}, "k: k must be at least 1"),
        ({"k": [16, 16]}, "each once"),
        ({"formulas": ["adam"]}, "formulas.0"),
        ({"modes": []}, "modes: give at least one"),
        ({"dtype": "float16"}, "dtype"),
        ({"batch_size": 0}, "batch_size"),
        ({"memory": "lots"}, "memory: 'lots'"),
        ({"data": None}, "data: tasks need"),
        ({"tasks": []}, "tasks: name at least one"),
        ({"tasks": "sst-2,mr", "template": "{a} {mask}"}, "template: one prompt for several"),
        ({"own_tasks": [{"name": "../x", "train": "a"}]}, "own_tasks.0.name"),
    ],
)
def test_errors_name_the_field(change, words):
    with pytest.raises(UserError) as caught:
        make_experiment(GOOD | change)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_flags_override_the_file(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text('model = "m"\ndata = "d"\ntasks = ["mr"]\nk = [16]\n')
    experiment = load_experiment(path, {"k": [64]})
    assert experiment.tasks == ("mr",) and experiment.k == (64,)


def test_a_broken_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text('model = "m"\ntasks = [\n')
    with pytest.raises(UserError, match="not valid TOML"):
        load_experiment(path, {})
    with pytest.raises(UserError, match="no file"):
        load_experiment(tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    ("text", "value"),
    [("4GiB", 2**32), ("500MB", 500 * 10**6), ("1.5 kib".replace(" ", ""), 1536), ("77", 77)],
)
def test_sizes(text, value):
    assert parse_bytes(text) == value
