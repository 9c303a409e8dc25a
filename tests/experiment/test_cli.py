"""The command line as a user meets it: results on stdout, one line and exit code 2 for a mistake, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from command_runs import PROMPT, assert_mistake, kernel_flags, lmntk, write_inputs
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import BASELINES, write_rows

COMMAND = [sys.executable, "-m", "lmntk"]


def in_a_process(*arguments):
    """The command as a process of its own, whose start takes some seconds."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=600
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("cli"))


def test_kernel_writes_float64_tensors_of_the_right_shapes(folder, tmp_path):
    result = in_a_process(
        "kernel",
        *kernel_flags(folder, out=tmp_path / "k", formulas="sgd,signgd,asigngd", dtype="float64"),
        "--all-logits",
        "--json",
    )
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["files"][str(tmp_path / "k" / "sgd.safetensors")] == [12, 2, 7, 2]
    for formula in ("sgd", "signgd", "asigngd"):
        with safe_open(tmp_path / "k" / f"{formula}.safetensors", "pt") as file:
            names = {"values", "values_flipped"} if formula == "asigngd" else {"values"}
            assert set(file.keys()) == names
            assert all(
                file.get_tensor(n).shape == (12, 2, 7, 2) and file.get_tensor(n).dtype == torch.float64
                for n in names
            )
    with safe_open(tmp_path / "k" / "logits.safetensors", "pt") as file:
        assert file.get_tensor("train").shape == (12, 2) and file.get_tensor("eval").shape == (7, 2)
        assert file.get_tensor("train").dtype == torch.float64


def test_two_label_words_fold_into_their_difference(folder, tmp_path):
    both = lmntk(
        "kernel",
        *kernel_flags(folder, out=tmp_path / "both", formulas="sgd", dtype="float64"),
        "--all-logits",
    )
    one = lmntk("kernel", *kernel_flags(folder, out=tmp_path / "one", formulas="sgd", dtype="float64"))
    assert both.returncode == one.returncode == 0, both.stderr + one.stderr
    with (
        safe_open(tmp_path / "both" / "sgd.safetensors", "pt") as a,
        safe_open(tmp_path / "one" / "sgd.safetensors", "pt") as b,
    ):
        full, folded = a.get_tensor("values"), b.get_tensor("values")
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        torch.einsum("c,ncmd,d->nm", sign, full, sign), folded[:, 0, :, 0], rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label_words": "terrible,superb"}, "'superb' is 2 tokens"),
        ({"label_words": "terrible,unheardof"}, "'unheardof' is not in the tokenizer's vocabulary"),
        ({"template": "{a} it was."}, "has no mask"),
        ({"template": "{a} {mask} was {mask}."}, "2 masks"),
        ({"max_length": 5}, "use at least"),
        ({"train": "nowhere.jsonl"}, "does not exist"),
        ({"formulas": "adam"}, "'adam' is not one of"),
        ({"dtype": "float16"}, "'float16' is not one of"),
        ({"memory": "much"}, "'much' is not a size"),
        ({"model": "./no-such-folder"}, "config.json"),
        ({"batch_size": "0"}, "batch-size: must be at least 1"),
        ({"memory": "-1GiB"}, "'-1GiB' is not a size"),
        ({"memory": "100"}, "is too little for this; the least is"),
    ],
    ids=lambda value: (
        next(iter(value)) + "-" + str(next(iter(value.values())))[:12].replace("/", "")
        if isinstance(value, dict)
        else ""
    ),
)
def test_mistakes_in_flags(folder, tmp_path, changes, words):
    assert_mistake(lmntk("kernel", *kernel_flags(folder, **({"out": tmp_path / "k"} | changes))), words)
    assert not (tmp_path / "k").exists()


def test_a_mistake_is_one_line_of_a_process_too(folder, tmp_path):
    """Whatever libraries say while they are imported and load a model, it is not on stderr."""
    words = kernel_flags(folder, out=tmp_path / "k", label_words="terrible,superb")
    assert_mistake(in_a_process("kernel", *words), "'superb' is 2 tokens")
    assert not (tmp_path / "k").exists()


def test_mistakes_in_files(folder, tmp_path):
    assert_mistake(
        lmntk("kernel", *kernel_flags(folder, train=folder / "empty.jsonl")), "empty.jsonl: the file is empty"
    )
    assert_mistake(
        lmntk("kernel", *kernel_flags(folder, train=folder / "broken.jsonl")), "broken.jsonl line 2"
    )


def test_a_model_without_a_masked_word_head(folder, tmp_path):
    from transformers import AutoTokenizer, BertModel

    BertModel.from_pretrained(folder / "model").save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(tmp_path / "base")
    assert_mistake(
        lmntk("kernel", *kernel_flags(folder, model=tmp_path / "base", out=tmp_path / "k")),
        "has no masked-language-model head",
    )


def test_a_kernel_of_another_model_is_refused_and_the_same_one_kept(folder, tmp_path):
    flags = kernel_flags(folder, out=tmp_path / "k", formulas="sgd")
    assert lmntk("kernel", *flags).returncode == 0
    written = (tmp_path / "k" / "sgd.safetensors").stat().st_mtime_ns
    again = lmntk("kernel", *flags)
    assert again.returncode == 0 and "earlier run" in again.stdout
    assert (tmp_path / "k" / "sgd.safetensors").stat().st_mtime_ns == written
    other = kernel_flags(folder, out=tmp_path / "k", formulas="sgd", model=folder / "other")
    assert_mistake(lmntk("kernel", *other), "is of another model")


def test_one_folder_never_mixes_two_prompts_and_gets_lost_logits_back(folder, tmp_path):
    assert lmntk("kernel", *kernel_flags(folder, out=tmp_path / "k", formulas="sgd")).returncode == 0
    (tmp_path / "k" / "logits.safetensors").unlink()
    assert lmntk("kernel", *kernel_flags(folder, out=tmp_path / "k", formulas="sgd")).returncode == 0
    assert (tmp_path / "k" / "logits.safetensors").is_file()
    other = kernel_flags(folder, out=tmp_path / "k", formulas="signgd", template="{a} was {mask}.")
    assert_mistake(lmntk("kernel", *other), "is of another prompt")


def test_split_prints_row_numbers(folder, tmp_path):
    write_rows(tmp_path / "mr" / "train.jsonl", 30)
    write_rows(tmp_path / "mr" / "test.jsonl", 9)
    result = lmntk("split", "--task", "mr", "--data", tmp_path, "--k", 3, "--seed", 21)
    parts = json.loads(result.stdout)
    assert [len(parts[name]) for name in ("train", "dev", "test")] == [6, 6, 9]
    assert_mistake(
        lmntk("split", "--task", "mr", "--data", tmp_path, "--k", 16, "--seed", 21), "fewer than k = 16"
    )


def run_flags(folder, out):
    own = [
        "--train",
        folder / "train.jsonl",
        "--test",
        folder / "eval.jsonl",
        "--text-column",
        "text_a",
        "--name",
        "films",
    ]
    return ["run", "--model", folder / "model", *own, *PROMPT, "--k", "2", "--seeds", "13,21", "--out", out]


def test_run_prints_a_table_and_json(folder, tmp_path):
    result = lmntk(*run_flags(folder, tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    assert (
        "zero-shot" in result.stdout and "films (acc.)" in result.stdout and "asigngd asym" in result.stdout
    )
    rows = json.loads(lmntk(*run_flags(folder, tmp_path / "out"), "--json").stdout)
    assert len(rows) == 2 * (3 + 3) and {row["seed"] for row in rows} == {13, 21}


def test_run_from_a_toml_file(folder, tmp_path):
    text = f'model = "{folder}/model"\nk = [2]\nseeds = [13]\nformulas = ["sgd"]\nout = "{tmp_path}/out"\n'
    text += f'[[own_tasks]]\nname = "films"\ntrain = "{folder}/train.jsonl"\ntest = "{folder}/eval.jsonl"\ntext_column = "text_a"\n'
    text += 'template = "{a} it was {mask}."\nlabel_words = ["terrible", "great"]\n'
    (tmp_path / "experiment.toml").write_text(text)
    result = lmntk("run", tmp_path / "experiment.toml", "--json")
    assert result.returncode == 0, result.stderr
    assert {row["method"] for row in json.loads(result.stdout)} == {*BASELINES, "sgd ridge"}


def test_mistakes_in_run(folder, tmp_path):
    assert_mistake(lmntk("run", "--tasks", "mr"), "give --model")
    assert_mistake(lmntk("run", "--model", folder / "model", "--tasks", "mr"), "data: tasks need")
    assert_mistake(lmntk(*run_flags(folder, tmp_path / "out"), "--k", "9"), "fewer than k = 9")
    (tmp_path / "bad.toml").write_text('model = "x"\ntaks = ["mr"]\n')
    assert_mistake(lmntk("run", tmp_path / "bad.toml"), "taks: no such field; did you mean 'tasks'?")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_a_folder_that_resumes(folder, tmp_path):
    flags = [*run_flags(folder, tmp_path / "out"), "--modes", "head", "--seeds", "13,21,42,87,100"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*COMMAND, *map(str, flags)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    deadline = time.monotonic() + 600
    while (
        not list((tmp_path / "out").glob("splits/*.json"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert "Traceback" not in errors
    interrupted = process.returncode == 130
    assert interrupted or process.returncode == 0  # a machine so fast that it was done before the signal came
    done = len(list((tmp_path / "out").glob("splits/*.json")))
    result = lmntk(*flags)
    assert result.returncode == 0, result.stderr
    assert f"{done} of 5 splits were finished before" in result.stderr
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == 1 + 5 * 4


@pytest.mark.parametrize(
    "command",
    [[], ["run"], ["kernel"], ["split"], ["demo"]],
    ids=lambda command: command[0] if command else "lmntk",
)
def test_every_help_has_an_example_and_imports_nothing_heavy(command):
    code = (
        "import sys; sys.argv = ['lmntk', *sys.argv[1:]]\n"
        "from lmntk.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'pandas', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "Usage: lmntk" in result.stdout and (not command or "Example: lmntk" in result.stdout)


def own_texts(folder, out, *more):
    texts = ["--train", folder / "train.jsonl", "--test", folder / "eval.jsonl", "--text-column", "text_a"]
    return ["--model", folder / "model", *texts, *PROMPT, "--k", "2", "--seeds", "13", "--out", out, *more]


def test_plan_says_what_run_would_take(folder, tmp_path):
    planned = lmntk("plan", *own_texts(folder, tmp_path / "out", "--modes", "prompt,head"))
    assert planned.returncode == 0, planned.stderr
    lines = planned.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["own prompt", "own head", "all"]
    assert "15 texts, 60 pairs" in lines[0] and lines[2].endswith(" here")
    assert "GPU" not in planned.stdout  # there is none, and of others nothing was measured
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["machine.json"]
    as_json = lmntk("plan", *own_texts(folder, tmp_path / "out", "--json"))
    found = json.loads(as_json.stdout)
    assert list(found) == ["own prompt"] and found["own prompt"]["pairs"] == 60
    done = lmntk("run", *own_texts(folder, tmp_path / "out"))
    assert "15 texts, 60 pairs" in " ".join(done.stderr.split())
    assert "nothing is left to compute" in lmntk("plan", *own_texts(folder, tmp_path / "out")).stdout


@pytest.mark.slow
def test_a_run_on_ray_is_the_run_here(folder, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'lmntk[ray]'")
    here = lmntk("run", *own_texts(folder, tmp_path / "here"))
    there = in_a_process("run", *own_texts(folder, tmp_path / "there", "--engine", "ray", "--workers", "2"))
    assert there.returncode == 0, there.stderr
    assert here.stdout.splitlines()[:6] == there.stdout.splitlines()[:6]
    for path in (tmp_path / "here" / "kernels").rglob("*.safetensors"):
        other = tmp_path / "there" / path.relative_to(tmp_path / "here")
        for name, tensor in load_file(path).items():
            assert torch.equal(tensor, load_file(other)[name])
    assert_mistake(
        lmntk("run", *own_texts(folder, tmp_path / "x", "--workers", "2")),
        "the local engine has none; add --engine ray",
    )
    assert_mistake(
        lmntk("run", *own_texts(folder, tmp_path / "x", "--device", "cuda:7")), "is not to be had here"
    )
