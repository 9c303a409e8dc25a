"""Commands as typer sees them: options made from fields, each with help; an example; nothing heavy before it is needed."""

from __future__ import annotations

import inspect
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from lmntk.cli.app import app
from lmntk.cli.configured import experiment_options, kernel_options, some_options
from lmntk.cli.options import GROUPS, JsonOption, options_of, taking
from lmntk.experiment.configuration import (
    Computation,
    Experiment,
    FactorKernels,
    FineTuning,
    OwnTask,
    TextKernels,
)
from lmntk.experiment.configuration.parts import Machine

COMMANDS = {
    command.name or command.callback.__name__: command.callback
    for command in app.registered_commands
    if command.callback is not None
}
CLICK_COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
HEAVY = {"torch", "transformers", "numpy", "scipy", "pandas", "sklearn"}

# fields of an experiment that are no option of `lmntk run`, and why
NO_OPTIONS = {
    "own_tasks": "a task's fields are options of their own",
    "finetuning": "its fields are options of their own",
    "finetuned": "a checkpoint can only be diagnosed: lmntk diagnose has the option",
    "own_tasks.texts_of": "prompts of one task are compared in a file, where there are several tasks",
    "own_tasks.text_a_limit": "prompts of one task are compared in a file, where there are several tasks",
    "own_tasks.template": "the option of this name is the experiment's field",
    "own_tasks.chat": "the option of this name is the experiment's field",
    "own_tasks.label_words": "the option of this name is the experiment's field",
    "own_tasks.max_length": "the option of this name is the experiment's field",
    "finetuning.seed": "it is seldom another one, and then the file says so",
    "finetuning.checkpoint_seconds": "it is seldom another one, and then the file says so",
    "finetuning.rate_factor": "it belongs to arms that share a grid; a single choice uses --learning-rates",
    "finetuning.arms": "a table each; on the command line there is one choice",
    "finetuning.export": "finetune --save asks for it together with the weights",
}


def options_in(name: str) -> dict[str, Any]:
    """A command's parameters by the flag that is typed, or by the argument's name."""
    command = CLICK_COMMANDS[name]
    context = typer.Context(command)
    return {parameter.opts[0]: parameter for parameter in command.get_params(context)}


def given(options: Any, *words: str, command: Any = None) -> dict[str, Any]:
    """What a command that takes options finds in its context."""
    values: dict[str, Any] = {}

    def plain(context: typer.Context) -> None:
        values.update(context.obj)

    alone = typer.Typer(add_completion=False)
    alone.command(cls=taking(options))(plain)
    alone(list(words), standalone_mode=False)
    return values


def test_every_field_is_an_option_of_run_or_is_none_for_a_reason():
    flags = options_in("run")
    without: dict[str, str] = {}
    for part, table in ((Experiment, ""), (OwnTask, "own_tasks."), (FineTuning, "finetuning.")):
        made = {option.name: option for option in options_of(part)}
        for name, field in part.model_fields.items():
            if name in made:
                assert made[name].flag in flags
            else:
                without[table + name] = field.json_schema_extra["no_option"]
    assert without == NO_OPTIONS


def test_every_field_of_kernels_is_an_option_of_kernel():
    flags = options_in("kernel")
    for part in (TextKernels, FactorKernels):
        made = {option.name: option.flag for option in options_of(part)}
        assert list(made) == list(part.model_fields) and set(made.values()) <= set(flags)
    assert flags["--eval"].name == "evaluate"


@pytest.mark.parametrize("name", CLICK_COMMANDS)
def test_every_option_has_help_and_fields_have_a_group(name):
    for flag, parameter in options_in(name).items():
        assert parameter.help, flag
    if name in ("run", "plan", "kernel", "finetune", "diagnose", "reproduce"):
        own = {"--help", "--list", "configuration", "experiment"}
        groups = {flag: parameter.rich_help_panel for flag, parameter in options_in(name).items()}
        assert all(group in GROUPS for flag, group in groups.items() if flag not in own)


ALIKE = ("fit", "run", "kernel", "check", "predict", "diagnose", "solve")
OF_THEIR_OWN = {  # options whose default a command has a reason to choose for itself
    "--out": "a folder, or of predict the answers",
    "--text-column": "predict goes by the columns that its classifier was made from",
    "--text-b-column": "likewise",
    "--formulas": "solve takes what is there",
    "--metric": "solve knows that of the 14 tasks",
    "--task": "the doctor may have none, solve needs it for files that do not say",
    "--max-length": "a task of the 14 has its own",
    "--mode": "fit compares both, the doctor looks at one",
    "--classes": "run does as published, fit what is cheap",
    "--targets": "subspace compares the usual ones, run solves those that are asked for",
    "--ranks": "likewise",
    "--others": "likewise",
    "--lora-targets": "fine-tuning goes where peft does, fit on all linear maps",
    "--lora-rank": "of kept factors there may be several",
}


def test_the_same_option_has_the_same_name_everywhere():
    flags: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    defaults: dict[str, set[str]] = {}
    for command in ALIKE:
        for flag, parameter in options_in(command).items():
            if flag.startswith("--"):
                names.setdefault(flag, set()).add(parameter.name)
                flags.setdefault(parameter.name, set()).add(flag)
                flags.setdefault(f"that is said to be: {parameter.help}", set()).add(flag)
                shown = (
                    parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
                )
                defaults.setdefault(flag, set()).add(str(shown))
    assert not {name: each for name, each in flags.items() if len(each) > 1}
    assert {flag: each for flag, each in names.items() if len(each) > 1} == {"--out": {"out", "target"}}
    assert {flag for flag, each in defaults.items() if len(each) > 1} <= set(OF_THEIR_OWN)


MOST_USED = {
    "run": "model train tasks data text_column label_column template label_words k out",
    "diagnose": "model train tasks data text_column label_column template label_words k out",
    "kernel": "model train evaluate text_column label_column template label_words out formulas text_b_column",
    "fit": "model text_column label_column template label_words out mode text_b_column memory device",
    "check": "task data texts text_column label_column template label_words mode text_b_column",
    "predict": "model text_column target text_b_column memory device",
}


@pytest.mark.parametrize("name", MOST_USED)
def test_what_most_people_need_comes_first(name):
    most = [p.name for p in options_in(name).values() if getattr(p, "rich_help_panel", None) == GROUPS[0]]
    assert most == MOST_USED[name].split() and len(most) <= 10


def test_options_are_grouped_in_the_order_of_the_groups_with_json_last_in_its_own():
    parameters = [p for p in options_in("run").values() if getattr(p, "rich_help_panel", None)]
    groups = [parameter.rich_help_panel for parameter in parameters]
    assert list(dict.fromkeys(groups)) == list(GROUPS) and groups == sorted(groups, key=GROUPS.index)
    assert parameters[-1].opts == ["--json"]


def test_what_was_given_comes_as_the_file_would_say_it():
    words = ["--memory", "4GiB", "--all-logits", "--k", "16", "--no-kernels", "--steps", "9"]
    words += [
        "--template",
        "{a} {mask}",
        "--template",
        "{mask} {a}",
        "--train",
        "a.csv",
        "--batch-size",
        "32",
    ]
    assert given(experiment_options, *words) == {
        "memory": "4GiB",
        "all_logits": True,
        "k": "16",
        "keep_kernels": False,
        "template": ["{a} {mask}", "{mask} {a}"],
        "batch_size": 32,  # given, though it is the default: it goes over a file's
        "finetuning": {"steps": 9},
        "own_tasks": {"train": "a.csv"},
    }
    assert given(experiment_options) == {}


def test_a_command_keeps_its_own_options_beside_those_of_fields():
    got: dict[str, Any] = {}

    def command(
        context: typer.Context,
        first: int = 1,
        after: Annotated[bool, typer.Option("--after")] = False,
        as_json: JsonOption = False,
    ) -> None:
        got.update(context.obj, first=first, after=after, as_json=as_json)

    alone = typer.Typer(add_completion=False)
    alone.command(cls=taking(partial(some_options, ("memory", "all_logits", "groups"))))(command)
    alone(["--memory", "4GiB", "--all-logits", "--after"], standalone_mode=False)
    assert got == {"memory": "4GiB", "all_logits": True, "first": 1, "after": True, "as_json": False}


@pytest.mark.parametrize("name", ["run", "plan", "kernel"])
def test_commands_that_compute_kernels_share_their_options(name):
    shared = {option.flag for option in options_of(Computation)}
    assert shared <= set(options_in(name)) and {"--memory", "--formulas", "--include", "--model"} <= shared
    assert {option.name for option in options_of(Machine)} == set(Machine.model_fields)


def test_defaults_are_shown_as_they_would_be_typed():
    flags = options_in("run")
    shown = {
        flag: (parameter.default, parameter.show_default)
        for flag, parameter in flags.items()
        if flag[0] == "-"
    }
    assert shown["--seeds"][0] == "13,21,42,87,100" and shown["--formulas"][0] == "sgd,signgd,asigngd"
    assert shown["--batch-size"][0] == 32 and shown["--out"][0] == Path("runs/lmntk")
    assert shown["--memory"] == (None, "half of the machine's") and shown["--kind"] == (
        None,
        "by the checkpoint",
    )
    assert shown["--tasks"][0] is None and shown["--model"][0] is None


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_and_prints_json(name):
    assert "Example: lmntk" in (COMMANDS[name].__doc__ or "")
    assert "as_json" in inspect.signature(COMMANDS[name]).parameters


def test_no_command_imports_what_is_heavy():
    script = "import sys, lmntk.cli.app; print(*(set(sys.modules) & {'torch', 'transformers', 'numpy', 'pydantic', 'pandas', 'sklearn'}))"
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
        == []
    )


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_no_help_imports_what_is_heavy(name):
    script = (
        "import sys; sys.argv = ['lmntk', *sys.argv[1:]]\n"
        "from lmntk.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(*set(sys.modules) & {HEAVY}, file=sys.stderr)"
    )
    words = [name, "--help"] if name else ["--help"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert done.stderr.split() == [] and f"Usage: lmntk{' ' * bool(name)}{name}" in done.stdout
    assert not name or "Example: lmntk" in done.stdout


def test_the_list_of_commands_waits_for_no_configuration():
    script = "import sys, lmntk.cli.app as module\ntry: module.app(['--help'])\nexcept SystemExit: pass\n"
    script += (
        "print(*set(sys.modules) & {'pydantic', 'rich', 'lmntk.experiment.configuration'}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.split() == [] and "reproduce" in done.stdout


def test_kernel_options_are_named_once():
    names = [option.name for option in kernel_options()]
    assert len(names) == len(set(names))
