"""The files of a fit: ``fit.json`` for people and pages, and the predictor's for ``lmntk predict``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel
from torch import Tensor

from lmntk.errors import UserError
from lmntk.estimator.choice import Choice, fitted_share
from lmntk.estimator.encoders import Prompt
from lmntk.estimator.learning_curve import LearningCurve
from lmntk.estimator.page_texts import DoubtfulText, doubtful_texts, suspects_of
from lmntk.estimator.predictors import shared_solution
from lmntk.estimator.solved import Solved
from lmntk.estimator.texts import LabelledTexts
from lmntk.experiment.configuration import Fit
from lmntk.models.loading import Pretrained
from lmntk.prediction.files import save_predictor
from lmntk.reports.fit_page import write_fit_page
from lmntk.reports.kernel_facts import class_summed, kernel_picture
from lmntk.solvers.calibration import log_probabilities
from lmntk.system.hashing import versions
from lmntk.system.kept import read_form, read_record, write_record
from lmntk.system.notices import say

FORMAT = "lmntk fit 1"
NAME = "fit.json"
SHOWN = 160  # letters of a text in the record
# Parameters of an estimator that are options of a fit under the same name.
OF_OPTIONS = (
    *("template", "dtype", "mode", "classes", "max_length", "chat", "device", "memory", "seed"),
    *("lora_rank", "lora_targets", "lora_alpha", "train_only"),
)
ROUGH = 30  # texts: with less, probabilities are marked as rough


class ComparedPrompt(BaseModel):
    """A prompt that a choice was made from, and the share of folds whose other texts chose it."""

    template: str
    label_words: list[str]
    taken: float

    @classmethod
    def of(cls, prompt: Prompt, share: float) -> ComparedPrompt:
        """Return the record of a prompt."""
        return cls(template=prompt.template or "", label_words=list(prompt.words or ()), taken=share)


class FitCost(BaseModel):
    """The work that a fit was.

    Attributes:
        texts: labelled ones.
        forward: forward passes of a text; none where the kernels were there from an earlier fit.
        backward: backward passes of a text.
        kernel_seconds: of the kernels.
        choice_seconds: of the choice and the estimate.
        curve_seconds: of the learning curve.
    """

    texts: int
    forward: int
    backward: int
    kernel_seconds: float
    choice_seconds: float
    curve_seconds: float


class FitRecord(BaseModel):
    """The record of a fitted classifier.

    Attributes:
        format: of this file.
        file: the labelled file.
        columns: of its texts and labels.
        counts: texts of each class, in the order of the classes.
        classes: the labels as they were given, in the same order; the names where they came from a file.
        mode: prompt or head.
        template: the prompt, if there is one.
        label_words: the word of each class, if there is one.
        prompts: of several that were compared all, in order; the one that was taken is ``template`` with ``label_words``.
        setting: what was chosen.
        standing: the estimate, the rivals, the outcome and its sentence; None where nothing could be held out.
        training_accuracy: share of its own texts that the classifier has right.
        held_out: of each text the beginning, its label, the decided class, the share of rounds that decided it rightly, the probability
            of its label and that of the decided class; empty where nothing could be held out.
        sharpness: factor of decisions before their softmax.
        rough: whether the probabilities rest on fewer than 30 texts.
        doubtful: the hardest and the most doubtful texts, each with the texts that speak for and against its label.
        suspects: the first labels that are probably wrong; None where the texts are too few to say.
        curve: the held-out accuracy by the number of labels, of a fit from a file.
        cost: of a fit from a file.
        parameters: those that a ``TangentClassifier`` is made with; ``label_words`` is a list, by class one of pairs.
        model: its name and fingerprint.
        versions: of what computed it.
    """

    format: str
    file: str
    columns: dict[str, str | None]
    counts: dict[str, int]
    classes: list[str | bool | int | float]
    mode: str
    template: str | None
    label_words: dict[str, str] | None
    prompts: list[ComparedPrompt] = []
    setting: dict[str, Any]
    standing: dict[str, Any] | None
    training_accuracy: float
    held_out: list[dict[str, Any]] = []
    sharpness: float
    rough: bool
    doubtful: list[DoubtfulText] = []
    suspects: list[dict[str, Any]] | None = None
    curve: LearningCurve | None = None
    cost: FitCost | None = None
    parameters: dict[str, Any] = {}
    model: dict[str, Any]
    versions: dict[str, str]

    def meaning(self) -> list[str]:
        """Return what each class is, in order, with the word that stands for it."""
        words = self.label_words or {}
        return [f"{label} = {words[label]!r}" if label in words else label for label in self.counts]


@dataclass(frozen=True)
class EstimatorInput:
    """The labels that an estimator was given, in the order of the classes, and its parameters, plain."""

    classes: Sequence[Any]
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class FileFindings:
    """The findings about a fit from a file beside the choice: the prompts that were compared, the learning curve, and the cost."""

    compared: Sequence[ComparedPrompt] = ()
    curve: LearningCurve | None = None
    cost: FitCost | None = None


def parameters_of(options: Fit, labels: Sequence[str], prompt: Prompt | None) -> dict[str, Any]:
    """Return the parameters of an estimator that is fitted as a file was, with the prompt that was taken, if one was."""
    same = {name: getattr(options, name) for name in OF_OPTIONS if name != "template"}
    template, words = (None, None) if prompt is None else (prompt.template, prompt.words)
    pairs = None if words is None else [list(pair) for pair in zip(labels, words, strict=True)]
    return same | {"model": options.model, "template": template, "label_words": pairs}


def write_fit(
    options: Fit,
    *,
    texts: LabelledTexts,
    prompt: Prompt | None,
    choice: Choice,
    directions: Sequence[Mapping[str, Tensor]],
    pretrained: Pretrained,
    given: EstimatorInput | None = None,
    findings: FileFindings | None = None,
) -> FitRecord:
    """Write a fit's predictor, what it was trained on, and its record, which is returned.

    Args:
        options: the configuration.
        texts: the labelled ones.
        prompt: what the chosen way puts around them; it does not matter in head mode.
        choice: what was chosen.
        directions: of its solution.
        pretrained: the model.
        given: what an estimator was given; of a file it is made of the options.
        findings: what is known beside, of a file.
    """
    findings = findings or FileFindings()
    if given is None:
        given = EstimatorInput(texts.labels, parameters_of(options, texts.labels, prompt))
    way, standing, sharpness = choice.measured.way, choice.standing, choice.sharpness
    is_prompt = way.mode == "prompt"
    template, words = (prompt.template, list(prompt.words or ())) if is_prompt and prompt else (None, None)
    setting = {name: "inf" if value == math.inf else value for name, value in choice.setting.items()}
    scale = choice.f0_scale
    columns = {"text": options.text_column, "text_b": options.text_b_column, "label": options.label_column}
    rough, held_out = len(texts.examples) < ROUGH, held_out_texts(choice, texts)
    counted = Counter(row["decided"] for row in held_out)
    is_estimate = standing is not None and standing.is_estimate
    decided = [counted[label] for label in texts.labels] if is_estimate else None
    model = {
        "name": options.model, "fingerprint": pretrained.fingerprint, "kind": pretrained.kind, "base": options.base,
        "revision": options.revision, "gguf": options.gguf, "dtype": options.dtype, "attention": options.attention,
        "untied": options.untie_head, "difference": way.model.outputs == 1, "features": "read",
        "centred": way.basis is not None,
    }  # fmt: skip
    put_to = {
        "templates": [template] if is_prompt else None,
        "label_words": words,
        "reduce": options.label_words_reduce, "max_length": way.encoder.max_length, "text_a_limit": None,
        "chat": options.chat and is_prompt,
    }  # fmt: skip
    solution = {
        "method": "sgd ridge" if choice.form is not None else "no training", "setting": setting,
        "intercept": list(choice.intercepts) if any(choice.intercepts) else 0.0,
        "f0_scale": "inf" if math.isinf(scale) else scale, "sharpness": sharpness, "rough": rough,
    }  # fmt: skip
    description = {
        "split": "fit", "dev": 0.0 if standing is None else standing.accuracy, "metric": "accuracy", "mode": way.mode,
        "labels": list(texts.labels), "counts": list(texts.counts.values()),
        "decided": decided, "columns": columns, "model": model,
        "prompt": put_to,
        "parameters": way.parameters.as_dict(), "trained": way.trained.as_dict(), "solution": solution, "versions": versions(),
        "train_texts": [[example.text_a, example.text_b] for example in texts.examples],
    }  # fmt: skip
    (options.out / NAME).unlink(missing_ok=True)  # an earlier fit's does not stand beside the new predictor
    save_predictor(options.out, directions, way.model, description, shared_solution(choice))
    solved = Solved.of(choice, texts)
    solved.write(options.out)
    record = FitRecord(
        format=FORMAT,
        file=options.file,
        columns=columns,
        counts=texts.counts,
        classes=list(given.classes),
        mode=way.mode,
        template=template,
        label_words=dict(zip(texts.labels, words, strict=True)) if words is not None else None,
        prompts=list(findings.compared),
        setting=setting,
        standing=None if standing is None else standing.as_dict(),
        training_accuracy=fitted_share(choice, texts.numbers),
        held_out=held_out,
        sharpness=sharpness,
        rough=rough,
        doubtful=doubtful_texts(choice, texts, solved, held_out),
        suspects=suspects_of(choice, texts),
        curve=findings.curve,
        cost=findings.cost,
        parameters=dict(given.parameters),
        model=model,
        versions=versions(),
    )
    plain = record.model_dump()
    write_record(options.out / NAME, plain)
    missing = write_fit_page(options.out, plain, picture_of(choice, texts))
    if missing:
        say(missing)
    return record


def picture_of(choice: Choice, texts: LabelledTexts) -> dict[str, Any]:
    """Return the kernel of the chosen way as its picture has it, by the classes' names."""
    picture = kernel_picture(class_summed(choice.measured.kernel), texts.numbers.tolist())
    return picture | {"labels": [texts.labels[number] for number in picture["labels"]]}


def held_out_texts(choice: Choice, texts: LabelledTexts) -> list[dict[str, Any]]:
    """Return what was decided on each text by solutions without it, over the rounds; see ``FitRecord.held_out``."""
    held = choice.held_out
    if held is None:
        return []
    moved = held.decisions + (0 if held.shifts is None else held.shifts)
    by_round = [np.exp(log_probabilities(choice.sharpness * decisions)) for decisions in moved]
    probabilities = np.mean(by_round, axis=0)  # (n, classes)
    rows = []
    for plain, label, right, of_all in zip(
        texts.plain, texts.numbers, held.correct, probabilities, strict=True
    ):
        decided = int(of_all.argmax())
        rows.append(
            {
                "text": plain[:SHOWN],
                "label": texts.labels[label],
                "decided": texts.labels[decided],
                "right": float(right),
                "probability": float(of_all[label]),
                "confidence": float(of_all[decided]),
            }
        )
    return rows


def read_fit(folder: Path) -> FitRecord:
    """Return the record of a fit.

    Raises:
        UserError: there is none, or one of another version.
        DamagedError: it is not what was written.
    """
    try:
        written = read_record(folder / NAME).get("format")
    except FileNotFoundError:
        raise UserError(
            f"{str(folder)!r} holds no fit; make one with `lmntk fit FILE --out {folder}`"
        ) from None
    if written != FORMAT:
        raise UserError(
            f"{str(folder)!r} has the format {written!r}, and this version reads {FORMAT!r}; fit again"
        )
    record: FitRecord = read_form(folder / NAME, FitRecord)
    return record
