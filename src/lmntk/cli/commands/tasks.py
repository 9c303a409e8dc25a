"""``lmntk tasks``: the 14 tasks and their prompts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmntk.cli.options import JsonOption

if TYPE_CHECKING:
    from lmntk.tasks import Prompt, Task

KINDS = ("masked", "seq2seq", "causal")  # of models that read a prompt


def tasks(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="TASK", help="tasks to list", show_default="all 14"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the 14 tasks: classes, metric, longest text, and the prompt for each kind of model.

    A template is written as --template takes it, "\\n" for a new line; label words are in the order of the classes.

    Example: lmntk tasks sst-2 mnli
    """
    from lmntk.cli.printing import print_wrapped
    from lmntk.tasks import TASKS, get_task

    listed = [get_task(name) for name in names] if names else list(TASKS.values())
    if as_json:
        print(json.dumps([_described(task) for task in listed], indent=1))
        return
    for task in listed:
        limit = "" if task.text_a_limit is None else f", the first text at most {task.text_a_limit}"
        texts = "two texts" if task.pair else "one text"
        print_wrapped(
            f"{task.name}: {task.title}, {texts}, {len(task.labels)} classes ({', '.join(task.labels)}), {task.metric}, "
            f"at most {task.max_length} tokens{limit}",
            2,
        )
        kinds: dict[str, list[str]] = {}
        for kind in KINDS:
            prompt = _prompt(task, kind)
            line = f"{json.dumps(prompt.template)}  {', '.join(prompt.label_words)}"
            kinds.setdefault(line, []).append(kind)
        for line, those in kinds.items():
            print_wrapped(f"  {', '.join(those):<17}{line}", 19)


def _prompt(task: Task, kind: str) -> Prompt:
    from lmntk.models.kinds import reading_of

    return task.prompt(reading_of(kind, "prompt", kind == "causal"))


def _described(task: Task) -> dict[str, Any]:
    prompts = {kind: _prompt(task, kind) for kind in KINDS}
    return {
        "name": task.name,
        "title": task.title,
        "labels": task.labels,
        "classes": len(task.labels),
        "pair": task.pair,
        "metric": task.metric,
        "max_length": task.max_length,
        "text_a_limit": task.text_a_limit,
        "prompts": {
            kind: {"template": prompt.template, "label_words": prompt.label_words}
            for kind, prompt in prompts.items()
        },
    }
