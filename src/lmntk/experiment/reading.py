"""From an experiment's configuration to tasks whose texts are read and split, before a model or a library that computes is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from lmntk.errors import UserError
from lmntk.experiment.configuration import Experiment, OwnTask
from lmntk.models.hub import looks_local
from lmntk.runs.split import Split
from lmntk.solvers.shared import is_contrasted, is_shared
from lmntk.system.notices import kept
from lmntk.tasks import Columns, Example, Task, TaskData, get_task, k_shot_split, read_data
from lmntk.tasks.class_words import words_by_class
from lmntk.tasks.splits import cut_test


@dataclass(frozen=True)
class ReadTask:
    """One task as it is read: its texts by k and seed, their splits, and what the user says of its prompt.

    Attributes:
        name: the task's.
        title: its name in print.
        labels: the meaning of each class.
        metric: accuracy or f1.
        known: the task of the 14 that the texts are of, if they are of one.
        template: what the user gave, if anything.
        label_words: the word of each class, in order, if the user gave them.
        chat: the prompt is put into a chat template.
        max_length: what the user gave, if anything.
        text_a_limit: of the first text.
        splits: one for each k, seed and mode.
        remarks: what was guessed, counted and left out as the texts were read; nobody has heard them yet.
        data: the texts by k and seed; they differ only for folders that come split.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    metric: str
    known: Task | None
    template: str | tuple[str, ...] | None
    label_words: tuple[str, ...] | None
    chat: bool
    max_length: int | None
    text_a_limit: int | None
    splits: tuple[Split, ...]
    remarks: tuple[str, ...]
    data: dict[tuple[int, int], TaskData] = field(repr=False)


def read_tasks(experiment: Experiment) -> list[ReadTask]:
    """Return the experiment's tasks; every mistake in the data, and in label words for their classes, shows here.

    Raises:
        UserError: whatever is wrong with the first task that is wrong.
    """
    given = experiment.template, experiment.label_words
    read = [_catalog_task(experiment, get_task(name), *given) for name in experiment.tasks]
    read += [_own_task(experiment, task) for task in experiment.own_tasks]
    for task in read:
        check_sharing(experiment, task.name, len(task.labels))
        if task.metric == "f1" and len(task.labels) != 2:
            raise UserError(
                f"{task.name}: f1 needs two classes, and there are {len(task.labels)}; use accuracy"
            )
    return read


def check_files(experiment: Experiment) -> None:
    """Refuse a model and a checkpoint that are not there.

    Raises:
        UserError: one of them, where a path is meant.
    """
    name = experiment.model
    if looks_local(name) and not Path(name).expanduser().exists():
        raise UserError(
            f"model: {name!r} is not there; give a Hugging Face model folder, a GGUF file or a hub name"
        )
    if experiment.finetuned is not None:
        check_checkpoint(experiment.finetuned)


def check_sharing(experiment: Experiment, task: str, classes: int) -> None:
    """Refuse what a kernel that classes share, or one of contrasts, cannot do.

    Raises:
        UserError: another formula than ``sgd``, of a shared kernel another solver than ridge, a diagnosis, or factors or models to be kept.
    """
    shared = is_shared(experiment.classes, classes)
    if not shared and not is_contrasted(experiment.classes, classes):
        return
    kind = "a shared kernel" if shared else "a kernel of contrasts"
    others = [name for name in experiment.formulas if name != "sgd"]
    solvers = [name for name in experiment.solvers or () if name != "ridge"]
    asked = {
        f"formula {', '.join(others)}": (bool(others), "use --formulas sgd"),
        f"solver {', '.join(solvers)}": (shared and bool(solvers), "use --solvers ridge"),
        "a diagnosis": (experiment.diagnose, "leave --diagnose out"),
        "--keep-factors": (experiment.keep_factors, "leave it out"),
        "--save-models": (experiment.save_models, "leave it out; `lmntk fit` saves such a model"),
    }
    for name, (is_asked, instead) in asked.items():
        if is_asked:
            raise UserError(
                f"classes: {task} has {classes}; {kind} takes no {name}; {instead}, or use --classes full"
            )


def check_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that is not there.

    Raises:
        UserError: so it is.
    """
    if not path.expanduser().exists():
        raise UserError(
            f"finetuned: there is no {str(path)!r}; give the folder that the fine-tuned model was saved to, or its weights"
        )


def label_of(example: Example, task: str) -> int:
    """Return an example's label.

    Raises:
        UserError: it has none.
    """
    if example.label is None:
        raise UserError(
            f"{task}: the text {example.text_a[:40]!r} has no label; every train and test text needs one"
        )
    return example.label


def splits_of(
    task: str, data: TaskData, k: int, seed: int, modes: Sequence[str], test_limit: int, csv_style: bool
) -> list[Split]:
    """Return the splits of one k and seed: the k-shot split, or the ready-made one, once a mode."""
    if data.dev is not None:
        parts = (
            tuple(range(len(data.train))),
            tuple(range(len(data.dev))),
            cut_test(len(data.test), test_limit, csv_style),
        )
    else:
        split = k_shot_split(
            [label_of(example, task) for example in data.train],
            len(data.test),
            k,
            seed,
            test_limit,
            csv_style,
            data.labels,
        )
        parts = split.train, split.dev, split.test
    if not parts[2]:
        raise UserError(f"{task}: there are no test texts; give a test file")
    if not parts[1]:
        raise UserError(f"{task}: no texts are left for validation at k = {k}; use a smaller k")
    for example in (*(data.dev or ()), *(data.test[row] for row in parts[2])):
        label_of(example, task)
    return [Split(task, k, seed, mode, *parts) for mode in modes]


def _catalog_task(
    experiment: Experiment,
    task: Task,
    template: str | tuple[str, ...] | None,
    label_words: tuple[str, ...] | None,
) -> ReadTask:
    assert experiment.data is not None  # the configuration sees to it
    data, splits = {}, []
    common = None
    with kept() as remarks, _named(task.name):
        words = _words_of(label_words, task.labels)
        for k in experiment.k:
            for seed in experiment.seeds:
                if common is None or common.dev is not None:
                    common = read_data(experiment.data, task, k=k, seed=seed)
                data[k, seed] = common
                splits += splits_of(
                    task.name, common, k, seed, experiment.modes, experiment.test_limit, task.csv_style
                )
    return ReadTask(
        name=task.name,
        title=task.title,
        labels=task.labels,
        metric=task.metric,
        known=task,
        template=template,
        label_words=words,
        chat=experiment.chat,
        max_length=experiment.max_length,
        text_a_limit=task.text_a_limit,
        splits=tuple(splits),
        remarks=tuple(remarks),
        data=data,
    )


def _own_task(experiment: Experiment, task: OwnTask) -> ReadTask:
    if task.texts_of is not None:
        template, words = task.template or experiment.template, task.label_words or experiment.label_words
        known = _catalog_task(experiment, get_task(task.texts_of), template, words)
        return replace(
            known,
            name=task.name,
            title=task.name,
            chat=experiment.chat or task.chat,
            splits=tuple(replace(split, task=task.name) for split in known.splits),
        )
    columns = Columns(task.text_column, task.text_b_column, task.label_column)
    source = task.train if task.train.startswith("hf:") else Path(task.train)
    with kept() as remarks:
        data = read_data(source, None, test=task.test, labels=task.labels, columns=columns)
        found = {example.label for example in data.train if example.label is not None}
        classes = len(data.labels) if data.labels is not None else max(found, default=0) + 1
        if classes < 2:
            raise UserError(f"{task.name}: the train texts have {classes} class; at least two are needed")
        labels = data.labels or tuple(map(str, range(classes)))
        with _named(task.name):
            words = _words_of(experiment.label_words or task.label_words, labels)
        template = experiment.template or task.template
        if "prompt" in experiment.modes and (not template or words is None):
            raise UserError(
                f"{task.name}: prompt mode needs a template and label words; give both, or use mode head"
            )
        splits = [
            split
            for k in experiment.k
            for seed in experiment.seeds
            for split in splits_of(task.name, data, k, seed, experiment.modes, experiment.test_limit, False)
        ]
    return ReadTask(
        name=task.name,
        title=task.name,
        labels=labels,
        metric=task.metric,
        known=None,
        template=template,
        label_words=words,
        chat=experiment.chat or task.chat,
        max_length=experiment.max_length or task.max_length,
        text_a_limit=task.text_a_limit,
        splits=tuple(splits),
        remarks=tuple(remarks),
        data={(k, seed): data for k in experiment.k for seed in experiment.seeds},
    )


def _words_of(given: Iterable[str] | None, labels: Sequence[str]) -> tuple[str, ...] | None:
    """Return the word of each class; None where none are given, or an empty list of them."""
    return words_by_class(tuple(given), labels) if given else None


@contextmanager
def _named(task: str) -> Iterator[None]:
    """Say in a mistake with label words of which task it is."""
    try:
        yield
    except UserError as error:
        is_ours = str(error).startswith("label-words:")
        raise (UserError(f"{task}: {error}") if is_ours else error) from None
