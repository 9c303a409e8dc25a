"""``lmntk tasks``: the 14 tasks and their prompts, how large their data are, and what a tokenizer makes of their words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmntk.cli.options import JsonOption
from lmntk.errors import UserError

if TYPE_CHECKING:
    from lmntk.tasks import Prompt, Task

KINDS = ("masked", "seq2seq", "causal")  # of models that read a prompt


def tasks(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="TASK", help="tasks to list", show_default="all 14"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="folder of the tasks' texts, to count them", rich_help_panel="Data"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="a model folder, a GGUF file, or a hub name, to see how its tokenizer cuts the words",
            rich_help_panel="Model",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="branch, tag or commit of a hub name", rich_help_panel="Model")
    ] = None,
    gguf: Annotated[
        str | None,
        typer.Option(
            help="the name of a GGUF file in the model's folder or repository",
            metavar="NAME",
            rich_help_panel="Model",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the 14 tasks and their prompts.

    Prints classes, metric, longest text, and a prompt for each kind of model. A template is written as --template takes it,
    with "\\n" for a new line. Label words are in the order of the classes. With --data it also counts the texts. With --model
    it also says whether each word is a single token of that model's tokenizer, after a space and at the beginning of a chat's
    answer; no weights are read.

    Example: lmntk tasks sst-2 mnli

    Example: lmntk tasks --model gpt2 --data data
    """
    from lmntk.cli.printing import print_wrapped
    from lmntk.tasks import TASKS, get_task

    if model is None and (revision or gguf):
        raise UserError(f"{'revision' if revision else 'gguf'}: it needs a model; give --model")
    listed = [get_task(name) for name in names] if names else list(TASKS.values())
    described = [_described(task) for task in listed]
    if model is not None:
        _add_words(described, model, revision, gguf)
    if data is not None:
        for task, facts in zip(listed, described, strict=True):
            facts["texts"] = _sizes(task, data, named=bool(names))
    if as_json:
        print(json.dumps(described, indent=1))
        return
    for facts in described:
        for line, indent in _lines(facts):
            print_wrapped(line, indent)


def _lines(facts: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the lines on a task, with the column that each goes on at."""
    limit = facts["text_a_limit"]
    first = "" if limit is None else f", the first text at most {limit}"
    texts = "two texts" if facts["pair"] else "one text"
    title = (
        f"{facts['name']}: {facts['title']}, {texts}, {facts['classes']} classes ({', '.join(facts['labels'])}), "
        f"{facts['metric']}, at most {facts['max_length']} tokens{first}"
    )
    kinds: dict[str, list[str]] = {}
    for kind, prompt in facts["prompts"].items():
        line = f"{json.dumps(prompt['template'])}  {', '.join(prompt['label_words'])}"
        kinds.setdefault(line, []).append(kind)
    lines = [(title, 2), *((f"  {', '.join(those):<17}{line}", 19) for line, those in kinds.items())]
    if "model" in facts:
        words = facts["model"]["words"]
        for where in facts["model"]["read"]:
            lines.append((f"  {facts['model']['kind']} words, {where}: {_verdict(words, where)}", 19))
    if "texts" in facts:
        lines.append((f"  {'texts':<17}{_shown(facts['texts'])}", 19))
    return lines


def _verdict(words: Mapping[str, Mapping[str, list[str]]], where: str) -> str:
    """Return which words are no single tokens, and their pieces."""
    cut = {word: tokens[where] for word, tokens in words.items() if len(tokens[where]) != 1}
    shown = "; ".join(
        f"{word!r} is " + (" + ".join(map(repr, tokens)) if tokens else "not in the vocabulary")
        for word, tokens in cut.items()
    )
    return shown or "each is a single token"


def _shown(texts: Mapping[str, Any]) -> str:
    if "missing" in texts:
        return str(texts["missing"])
    return ", ".join(f"{count:,} {side}" for side, count in texts.items())


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


def _add_words(described: list[dict[str, Any]], model: str, revision: str | None, gguf: str | None) -> None:
    """Add what a model's tokenizer makes of the label words of its kind's prompts."""
    from lmntk.models.tokenizer import load_tokenizer
    from lmntk.prompts.label_words import SPELLINGS, spellings
    from lmntk.prompts.tokenization import PieceEncoder

    tokenizer, kind = load_tokenizer(model, revision, gguf)
    if kind not in KINDS:
        raise UserError(f"model: {model!r} is a classifier, which reads no label words; leave it out")
    pieces = PieceEncoder(tokenizer)
    in_chats = kind == "causal" and tokenizer.chat_template
    for facts in described:
        facts["model"] = {
            "name": model,
            "kind": kind,
            "read": list(SPELLINGS)[: 2 if in_chats else 1],
            "words": spellings(pieces, facts["prompts"][kind]["label_words"]),
        }


def _sizes(task: Task, data: str, named: bool) -> dict[str, Any]:
    """Return how many texts a task has, or why that is not known: of all 14 some need not be there."""
    from lmntk.system.notices import kept
    from lmntk.tasks import read_data

    try:
        with kept():
            read = read_data(data, task)
    except UserError as error:
        if named:
            raise
        return {"missing": str(error)}
    sides = {"train": read.train, "dev": read.dev, "test": read.test}
    return {side: len(texts) for side, texts in sides.items() if texts is not None}
