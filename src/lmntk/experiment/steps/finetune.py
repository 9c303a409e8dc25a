"""Fine-tuning as an arm of an experiment: its trainings, kept and found again by content, and their rows beside the kernels'."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmntk.engine.stream import SCRATCH
from lmntk.engine.work import KEY, Owner, claim, sweep
from lmntk.errors import UserError
from lmntk.experiment.configuration import Experiment
from lmntk.experiment.preparation import PreparedTask
from lmntk.experiment.session import SIDES, Context
from lmntk.experiment.steps.shared_model import Unit
from lmntk.finetuning import optimizers
from lmntk.finetuning.files import MODEL, WEIGHTS, export, save_weights, slug
from lmntk.finetuning.grid import Search, search
from lmntk.finetuning.settings import Labelled, TrainingSettings
from lmntk.finetuning.subsets import Subset
from lmntk.finetuning.training import need_accelerate
from lmntk.models.filters import ParameterFilter, has_adapter
from lmntk.models.logit_model import LogitModel
from lmntk.runs.store import Cell
from lmntk.solvers.selection import predict_labels
from lmntk.system.hashing import content_key, versions
from lmntk.tasks.metrics import score

FORMAT = "lmntk finetuning 1"
SOLVER = "fine-tuning"
TRAINING = "finetuning-"  # begins the names of scratch folders


@dataclass(frozen=True)
class Arm:
    """One way of fine-tuning, of every cell."""

    settings: TrainingSettings
    learning_rates: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    subset: Subset
    linearized: bool

    @property
    def method(self) -> str:
        """Its name in tables."""
        return f"{self.settings.optimizer} fine-tuning{self.subset.suffix()}{' (linearized)' if self.linearized else ''}"

    def as_dict(self) -> dict[str, Any]:
        """Returns all that its numbers depend on, beside the cell."""
        settings = {name: value for name, value in asdict(self.settings).items() if name not in ("learning_rate", "batch_size")}
        return settings | {
            "learning_rates": self.learning_rates,
            "batch_sizes": self.batch_sizes,
            "parameters": self.subset.as_dict(),
            "lora_seed": self.subset.seed if self.subset.lora_rank is not None else None,
            "linearized": self.linearized,
        }


def arms_of(experiment: Experiment, chosen: ParameterFilter, seed: int) -> list[Arm]:
    """Returns the arms of an experiment for a cell of this seed: each optimizer's, and with ``linearized`` the linearized model's."""
    how = experiment.finetuning
    seed = seed if how.seed is None else how.seed
    subset = Subset(chosen, how.freeze_layers, how.lora_rank, how.lora_alpha, seed)
    arms = []
    for optimizer in experiment.finetune:
        settings = TrainingSettings(
            optimizer=optimizer,
            steps=how.steps,
            eval_every=how.eval_every,
            loss=how.loss,
            schedule=how.schedule,
            max_grad_norm=how.max_grad_norm,
            dropout=how.dropout,
            seed=seed,
        )
        rates = how.rates_of(optimizer) or optimizers.LEARNING_RATES[optimizer]
        arms += [
            Arm(settings, rates, how.batch_sizes, subset, linearized) for linearized in ((False, True) if how.linearized else (False,))
        ]
    return arms


def check_arms(context: Context, model: LogitModel) -> None:
    """Tries on a model what can be wrong with the arms before anything is trained.

    Raises:
        UserError: nothing to train, layers that are not there, LoRA on an adapter, a folder that cannot be exported.
    """
    how = context.experiment.finetuning
    for arm in arms_of(context.experiment, context.chosen, 0)[:1]:
        need_accelerate()
        with arm.subset.chosen(model):
            pass
    if context.experiment.finetune and how.export and has_adapter(model):
        raise UserError(
            "save: an adapter cannot be exported as a model's folder; keep its weights with `lmntk run --finetune ... --save-weights`"
        )


def is_trained(context: Context, task: PreparedTask, cell: Cell, result: Mapping[str, Any]) -> bool:
    """True when a cell's results have a row of every arm, and all that is kept of it is there."""
    arms = arms_of(context.experiment, context.chosen, cell.seed)
    return all(
        result.get("arms", {}).get(arm.method) == key_of(context, task, cell, arm) and kept_record(context, task, cell, arm) is not None
        for arm in arms
    )


def train_arms(context: Context, task: PreparedTask, cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
    """Trains the arms that are not kept, and returns the cell's results with a row of each, as it then stands on disk.

    Rows of other arms that an earlier run trained on the same cell stay.
    """
    arms = arms_of(context.experiment, context.chosen, cell.seed)
    unit: Unit | None = None
    for arm in arms:
        if kept_record(context, task, cell, arm) is None:
            unit = unit or Unit(context, task, [cell])
            _train(unit, cell, arm)
    return with_rows(context, task, cell, result)


def key_of(context: Context, task: PreparedTask, cell: Cell, arm: Arm) -> str:
    """Returns the hash of all that an arm's results on a cell depend on."""
    return content_key(format=FORMAT, cell=context.content_key(task, cell), metric=task.metric, **arm.as_dict())


def setup_of(context: Context, task: PreparedTask, mode: str, arm: Arm) -> str:
    """Returns the hash of what trainings of an arm must share to be splits of one method."""
    how = {name: value for name, value in arm.as_dict().items() if name not in ("seed", "lora_seed")}
    return context.setup(task, mode, "training", **{f"arm_{name}": value for name, value in how.items()})


def kept_record(context: Context, task: PreparedTask, cell: Cell, arm: Arm) -> dict[str, Any] | None:
    """Returns what is kept of an arm that was trained on a cell before, if all that is wanted of it is there."""
    how, place = context.experiment.finetuning, _place(cell, arm)
    found = context.store.read_json(f"{place}.json")
    if not isinstance(found, dict) or found.get("key") != key_of(context, task, cell, arm):
        return None
    wanted = [WEIGHTS] * how.save_weights + [f"{MODEL}/config.json"] * (how.export and not arm.linearized)
    if found["chosen"] is not None and not all((context.store.folder / place / name).is_file() for name in wanted):
        return None
    return found


def _place(cell: Cell, arm: Arm) -> str:
    return f"finetuning/{cell.name}-{slug(arm.method)}"


def _train(unit: Unit, cell: Cell, arm: Arm) -> None:
    """Trains an arm's grid on a cell and writes what it came to; the weights first, the word of it last."""
    this, task, how = unit.context, unit.task, unit.context.experiment.finetuning
    texts, labels = unit.texts[cell.name], unit.labels[cell.name]
    train, dev, test = (Labelled(texts[side], labels[side]) for side in SIDES)
    key = key_of(this, task, cell, arm)
    folder = claimed_work(this, TRAINING, key, place := _place(cell, arm))
    sizes = len({min(size, len(train)) for size in arm.batch_sizes})
    this.progress.work(f"{cell.name}: {arm.method}", len(arm.learning_rates) * sizes * arm.settings.steps)
    found = search(
        unit.model, train, dev, test, arm.subset, arm.settings, arm.learning_rates, arm.batch_sizes, this.pretrained.pad_id,
        metric=task.metric, linearized=arm.linearized, folder=folder, checkpoint_seconds=how.checkpoint_seconds,
        on_step=this.progress.advance,
    )  # fmt: skip
    (this.store.folder / f"{place}.json").unlink(missing_ok=True)  # cut short from here on, it would vouch for weights that are not its own
    shutil.rmtree(this.store.folder / place, ignore_errors=True)  # an earlier arm's of this name
    checkpoint = None
    if found.chosen is not None and (how.save_weights or how.export):
        facts = {"key": key, "cell": cell.name, "method": arm.method, "linearized": arm.linearized, "model": this.pretrained.fingerprint}
        checkpoint = f"{place}/{WEIGHTS}"
        save_weights(this.store.folder / checkpoint, found.weights, facts)
        if how.export and not arm.linearized:
            export(this.store.folder / place / MODEL, unit.model, this.pretrained, found.weights)
    predictions = predict_labels(found.logits["test"]).tolist() if "test" in found.logits else []
    notes = _notes(found, arm, train, dev, task)
    if any(run["status"] == "diverged" for run in found.runs):
        this.progress.note(f"{cell.name}, {arm.method}: {notes[0]}")
    this.store.write_json(
        f"{place}.json",
        {
            "format": FORMAT,
            "key": key,
            "content": this.content_key(task, cell),
            "setup": setup_of(this, task, cell.mode, arm),
            "cell": cell.name,
            "task": task.name,
            "k": cell.k,
            "seed": cell.seed,
            "mode": cell.mode,
            "metric": task.metric,
            "method": arm.method,
            "optimizer": arm.settings.optimizer,
            "loss": arm.settings.loss,
            "linearized": arm.linearized,
            "settings": arm.as_dict(),
            "parameters": arm.subset.as_dict(),
            "trained": found.trained,
            "runs": list(found.runs),
            "chosen": found.chosen,
            "dev": found.dev,
            "test": score(task.metric, labels["test"], predictions) if predictions else None,
            "predictions": predictions,
            "checkpoint": checkpoint,
            "notes": notes,
            "versions": versions(),
        },
    )
    remove_work(this, TRAINING, place)


def claimed_work(context: Context, kind: str, key: str, place: str) -> Path:
    """Returns the scratch folder of a training with this key, made, which says what it is for: a place in the output folder."""
    folder = _scratch(context) / f"{kind}{key[:KEY]}"
    claim(folder, Owner(context.store.folder, (place,)))
    return folder


def remove_work(context: Context, kind: str, place: str) -> None:
    """Removes what trainings for a place needed while they ran, those that were begun under other settings too."""
    sweep([context.store.folder / SCRATCH, _scratch(context)], Owner(context.store.folder, (place,)), kind)


def _scratch(context: Context) -> Path:
    return context.settings.scratch or context.store.folder / SCRATCH


def _notes(found: Search, arm: Arm, train: Labelled, dev: Labelled, task: PreparedTask) -> list[str]:
    notes = []
    diverged = [run for run in found.runs if run["status"] == "diverged"]
    if diverged:
        rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(run["learning_rate"] for run in diverged))
        notes.append(f"{len(diverged)} of {len(found.runs)} trainings diverged (learning rates {rates}) and were left out")
    if max(arm.batch_sizes) > len(train):
        notes.append(f"batch sizes were cut to the {len(train)} train texts")
    missing = sorted(set(range(task.classes)) - set(train.labels))
    if missing:
        notes.append(f"no train text has the label {', '.join(task.labels[label] for label in missing)}")
    if len(set(dev.labels)) == 1:
        notes.append("dev has texts of one class only, so that the choice on it says little")
    return notes


def with_rows(context: Context, task: PreparedTask, cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
    """Writes and returns a cell's results with the rows of all arms that were trained on it, and their predictions.

    The experiment's own arms come first, then those of earlier runs.
    """
    store = context.store
    same = {"cell": cell.name, "content": context.content_key(task, cell), "metric": task.metric}
    own = [f"{_place(cell, arm)}.json" for arm in arms_of(context.experiment, context.chosen, cell.seed)]
    others = sorted(f"finetuning/{path.name}" for path in store.folder.glob(f"finetuning/{cell.name}-*.json"))
    found = [store.read_json(name) for name in dict.fromkeys([*own, *others])]
    records = [one for one in found if isinstance(one, dict) and all(one.get(name) == value for name, value in same.items())]
    if not records and not result.get("arms"):
        return dict(result)
    kernels = [row for row in result["rows"] if row["solver"] != SOLVER]
    head = {name: kernels[0][name] for name in ("task", "k", "seed", "mode", "train_texts", "dev_texts", "test_texts")}
    updated = {
        **result,
        "rows": [*kernels, *(head | _row(record) for record in records)],
        "arms": {record["method"]: record["key"] for record in records},
    }
    if updated != result:
        _write_predictions(context, cell, [row["method"] for row in kernels], records)
        store.write_json(f"cells/{cell.name}.json", updated)
    return updated


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {} if record["chosen"] is None else record["runs"][record["chosen"]]
    setting = (
        {} if not chosen else {"learning_rate": chosen["learning_rate"], "batch_size": chosen["batch_size"], "step": chosen["best_step"]}
    )
    return {
        "method": record["method"], "formula": "", "solver": SOLVER, "metric": record["metric"], "dev": record["dev"],
        "test": record["test"], "setting": setting, "notes": record["notes"], "setup": record.get("setup"),
    }  # fmt: skip


def _write_predictions(context: Context, cell: Cell, methods: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
    """Writes the predictions' table anew: what stood in it of the kernels, then a column an arm that did not diverge."""
    name = f"predictions/{cell.name}.tsv"
    lines = [line.split("\t") for line in (context.store.folder / name).read_text(encoding="utf8").splitlines()]
    kept = [place for place, title in enumerate(lines[0]) if place < 2 or title in methods]
    columns = [[record["method"], *map(str, record["predictions"])] for record in records if record["predictions"]]
    table = [[line[place] for place in kept] + [column[row] for column in columns] for row, line in enumerate(lines)]
    context.store.write_text(name, "\n".join("\t".join(line) for line in table) + "\n")


def pending(
    context: Context, planned: Sequence[tuple[PreparedTask, Cell]], results: Mapping[str, dict[str, Any]]
) -> Iterator[tuple[PreparedTask, Cell]]:
    """Yields the cells that have a row of every arm still to come."""
    for task, cell in planned:
        if cell.name not in results or not is_trained(context, task, cell, results[cell.name]):
            yield task, cell
