"""transformers' Trainer for a module from a batch of encoded texts to logits [n, c].

Ours are the batches and their order, the loss, which parameters train, the looks at dev, and checkpoints that
hold the trained parameters alone. The Trainer's are the loop, the schedule, clipping, optimizer and generator
states, and going on from a checkpoint.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.losses import mean_loss
from lmntk.finetuning.optimizers import make_optimizer
from lmntk.finetuning.settings import (
    Checkpoints,
    Look,
    OnEvaluation,
    TrainingData,
    TrainingSettings,
    batch_order,
)
from lmntk.prompts.batching import collate
from lmntk.solvers.selection import predict_labels
from lmntk.system import kept
from lmntk.system.files import reporting_disk
from lmntk.tasks.metrics import score

# the record is written last: without it nothing is whole
TRAINED, BEST, RECORD = "trained.safetensors", "best.safetensors", "record.json"
GPU_LOOKS = 16  # steps between two looks at the loss on an accelerator, which has to be waited for


class DivergedError(ArithmeticError):
    """A loss or a logit is no number any more."""


class Loop(Trainer):  # type: ignore[misc]
    """One training of a module.

    Args:
        module: from a batch to logits [n, c].
        trained: the parameters that train, by name.
        data: texts to train on, and texts to look at.
        settings: how.
        checkpoints: where checkpoints are written, and how often.
        on_evaluation: called at each look, step 0 included, with the step and the module as it then is, in
            eval mode.
        on_step: called after each step.
    """

    def __init__(
        self,
        module: nn.Module,
        trained: Mapping[str, nn.Parameter],
        data: TrainingData,
        settings: TrainingSettings,
        checkpoints: Checkpoints,
        on_evaluation: OnEvaluation | None,
        on_step: Callable[[], None] | None,
    ) -> None:
        self.trained, self.data, self.settings = dict(trained), data, settings
        self.checkpoint_seconds, self.on_evaluation, self.on_step = (
            checkpoints.seconds,
            on_evaluation,
            on_step,
        )
        train = data.train
        self.order = batch_order(len(train), settings.batch_size, settings.steps, settings.seed)
        self.curve: list[Look] = []
        self.best: dict[str, Tensor] = {}
        self.best_step: int | None = None
        self.best_logits: Tensor | None = None
        self.seconds_before, self.started, self.saved = 0.0, time.monotonic(), time.monotonic()
        self.parameters_trained = list(self.trained.values())
        device = self.parameters_trained[0].device
        self.looks_every = 1 if device.type == "cpu" else GPU_LOOKS
        # losses are summed where they are; their mean over the steps since the last look is asked for only
        # then
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.loss_steps = 0
        super().__init__(
            model=module,
            args=_arguments(settings, checkpoints.folder, device),
            data_collator=lambda rows: (
                collate([text for text, _ in rows], data.pad_id)
                | {"labels": torch.tensor([label for _, label in rows])}
            ),
            train_dataset=list(zip(train.texts, train.labels, strict=True)),
            optimizers=(
                make_optimizer(settings.optimizer, self.parameters_trained, settings.learning_rate),
                None,
            ),
            callbacks=[_Watch(self)],
        )
        self.remove_callback(PrinterCallback)
        # One process in one precision has nothing to wrap. Measured on a tiny BERT: accelerate's optimizer
        # and backward look for a package on disk in each step, 0.7 of 3 ms more than a plain loop takes, and
        # its garbage collection is 0.2 s a training.
        self.accelerator.prepare = lambda *objects: objects if len(objects) > 1 else objects[0]
        self.accelerator.free_memory = lambda *objects: objects

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return all steps' batches as one pass, so that going on from a checkpoint is skipping some."""
        return DataLoader(self.train_dataset, batch_sampler=self.order, collate_fn=self.data_collator)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any = None
    ) -> Tensor:
        """Take a batch's gradient, and return its loss.

        Raises:
            DivergedError: the loss or a logit is no number.
        """
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        logits = model(inputs)
        loss = mean_loss(self.settings.loss, logits, labels)
        if self.state.global_step % self.looks_every == 0 and not bool(
            torch.isfinite(logits).all() & torch.isfinite(loss)
        ):
            raise DivergedError(f"the loss is not a number at step {self.state.global_step + 1}")
        loss.backward()  # type: ignore[no-untyped-call]
        detached = loss.detach()
        self.loss_sum += detached
        self.loss_steps += 1
        return detached

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return nn.utils.clip_grad_norm_(self.parameters_trained, self.settings.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return grad_norm  # nobody reads the norm of gradients that are not clipped

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Measure dev's metric and the loss since the last look, and keep the weights if they are the best.

        Raises:
            DivergedError: a logit is no number.
        """
        step = self.state.global_step
        self.control.should_evaluate = False
        with torch.random.fork_rng(devices=_devices(self.args.device)):
            dev_texts = self.data.dev
            logits = logits_of(self.model, dev_texts.texts, self.data.pad_id)
            if not bool(torch.isfinite(logits).all()):
                raise DivergedError(f"the logits are not numbers after step {step}")
            dev = score(self.data.metric, dev_texts.labels, predict_labels(logits).tolist())
            loss = float(self.loss_sum) / self.loss_steps if self.loss_steps else None
            self.loss_sum.zero_()
            self.loss_steps = 0
            if step > 0 and (self.best_step is None or dev > self._best_dev()):
                self.best = {
                    name: parameter.detach().to("cpu", copy=True) for name, parameter in self.trained.items()
                }
                self.best_step, self.best_logits = step, logits
            self.curve.append(Look(step, loss, dev))
            if self.on_evaluation is not None:
                training = self.model.training
                self.model.eval()
                self.on_evaluation(step, self.model)
                self.model.train(training)
        return {"eval_dev": dev}

    def _best_dev(self) -> float:
        return next(look.dev for look in self.curve if look.step == self.best_step)

    def seconds(self) -> float:
        """Return the seconds taken so far, before an interruption too."""
        return self.seconds_before + time.monotonic() - self.started

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the trained parameters alone; the rest is the pre-trained model's."""
        folder = Path(str(output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        kept.save_tensors(folder / TRAINED, self.trained)
        if self.best_logits is not None:
            best = {f"weights:{name}": value for name, value in self.best.items()}
            kept.save_tensors(folder / BEST, {"logits": self.best_logits, **best})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        shutil.rmtree(checkpoint, ignore_errors=True)  # a part of one that was cut short
        with reporting_disk():
            super()._save_checkpoint(model, trial)
        record = _CheckpointRecord(
            curve=[(look.step, look.loss, look.dev) for look in self.curve],
            best_step=self.best_step,
            loss_sum=float(self.loss_sum),
            loss_steps=self.loss_steps,
            seconds=self.seconds(),
            files=kept.checksums_of(checkpoint, without=(TRAINED, BEST)),
        )
        kept.write_record(checkpoint / RECORD, record.model_dump())
        for path in folder.glob("checkpoint-*"):
            if path != checkpoint:
                shutil.rmtree(path, ignore_errors=True)
        self.saved = time.monotonic()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        values, _ = kept.load_tensors(folder / TRAINED)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(values[name])
        record: _CheckpointRecord = kept.read_form(folder / RECORD, _CheckpointRecord)
        self.curve = [Look(*look) for look in record.curve]
        self.best_step, self.seconds_before = record.best_step, record.seconds
        self.loss_sum.fill_(record.loss_sum)
        self.loss_steps = record.loss_steps
        if self.best_step is not None:
            tensors, _ = kept.load_tensors(folder / BEST)
            self.best_logits = tensors.pop("logits")
            self.best = {name.removeprefix("weights:"): value for name, value in tensors.items()}


class _Watch(TrainerCallback):  # type: ignore[misc]
    """The Trainer's callback that says when to look at dev and when to write a checkpoint."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        loop = self.loop
        loop.model.train(loop.settings.dropout)
        if state.global_step == 0:
            loop.evaluate()

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        loop = self.loop
        if loop.on_step is not None:
            loop.on_step()
        is_last = state.global_step == state.max_steps
        control.should_evaluate = is_last or state.global_step % loop.settings.eval_every == 0
        if loop.checkpoint_seconds is not None and not is_last:
            control.should_save = time.monotonic() - loop.saved >= loop.checkpoint_seconds


class _CheckpointRecord(BaseModel):
    """The state of a training beside the Trainer's own files, and the checksums of these."""

    curve: list[tuple[int, float | None, float]]
    best_step: int | None
    loss_sum: float
    loss_steps: int
    seconds: float
    files: dict[str, str]


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder; one that is damaged is named, and removed."""
    steps = {
        path.parent: path.parent.name.rsplit("-", 1)[-1] for path in folder.glob(f"checkpoint-*/{RECORD}")
    }
    whole = [path for path, step in steps.items() if step.isdecimal()]
    for checkpoint in sorted(whole, key=lambda path: int(steps[path]), reverse=True):
        if kept.or_none(partial(_verify, checkpoint)):
            return checkpoint
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def _verify(checkpoint: Path) -> bool:
    record: _CheckpointRecord = kept.read_form(checkpoint / RECORD, _CheckpointRecord)
    kept.compare(checkpoint, record.files)
    for name in (TRAINED, *([] if record.best_step is None else [BEST])):
        kept.verify(checkpoint / name)
    return True


def _arguments(settings: TrainingSettings, folder: Path, device: torch.device) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=0,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        use_cpu=device.type == "cpu",
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        push_to_hub=False,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    arguments.__dict__["_setup_devices"] = device  # of several GPUs the model's, and that one alone
    arguments._n_gpu = min(1, arguments._n_gpu)
    if device.type == "cuda":
        # the arguments have made the first GPU current, whose generator would be the one that is kept
        torch.cuda.set_device(device)
    return arguments


def _devices(device: torch.device) -> list[int]:
    return [] if device.type != "cuda" else [device.index or 0]
