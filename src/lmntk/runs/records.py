"""The files of a split, as typed records: the results of its methods, a fine-tuning, a diagnosis.

One record is one JSON file. The names of the fields in the file are the aliases.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

FORMAT = 2  # of output folders; it is in every key, so that files of two formats never share a name
FINE_TUNING = "fine-tuning"  # the solver in a row of a fine-tuning


def _inside(path: str) -> str:
    """Refuse a path that leaves the output folder: a record names files, which are read, renamed and removed."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if ".." in parts or path.startswith("/"):
        raise ValueError(f"{path!r} is not in the output folder")
    return path


Inside = Annotated[str, AfterValidator(_inside)]


class Configuration(BaseModel):
    """The settings of a folder's runs, ``configuration.json``.

    Attributes:
        format: of the folder.
        experiment: of the last run.
        versions: of what computed it.
        weights: the fingerprint of its model.
        setups: that it asked for, and earlier ones, the latest first.
        earlier: the settings of other runs of the model, the latest first.
        texts: of each task, what was guessed and counted as its texts were read.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    format: int = 1
    experiment: dict[str, Any] = {}
    versions: dict[str, str] = {}
    weights: str | None = None
    setups: list[str] = []
    earlier: list[dict[str, Any]] = []
    texts: dict[str, list[str]] = {}


class Row(BaseModel):
    """One method's results in one split, as they stand in the table of results."""

    model_config = ConfigDict(frozen=True, extra="allow")

    task: str
    k: int
    seed: int
    mode: str
    method: str
    formula: str = ""
    solver: str = ""
    metric: str
    dev: float | None = None
    test: float | None
    setting: dict[str, Any] = {}
    notes: list[str] = []
    setup: str | None = None


class ExplainedSplit(BaseModel):
    """Test texts of a split with the training texts that speak for and against their predictions.

    Attributes:
        split: its name.
        results: the key of its results: where the split has other ones now, this is about something else.
        task: its name.
        method: whose predictions.
        texts: what the page shows of each, as plain data.
        total: test texts of the split.
    """

    split: str
    results: str
    task: str
    method: str
    texts: list[dict[str, Any]]
    total: int


class ExplainedTexts(BaseModel):
    """The file of all such texts of a run, ``explained.json``; a split a task."""

    FILE: ClassVar[str] = "explained.json"

    splits: list[ExplainedSplit] = []


class Record(BaseModel):
    """A file of one split.

    Attributes:
        key: the digest of all that the record depends on.
        content: the digest of the split's model and texts.
        name: the split's name.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="allow")

    FOLDER: ClassVar[str]

    key: str = ""
    content: str | None = None
    name: Inside = Field(alias="split")

    def as_dict(self) -> dict[str, Any]:
        """Return the record as the plain data of its file."""
        form = {"format": self.format} if isinstance(self, FineTuningRecord | DiagnosisRecord) else {}
        return form | self.model_dump(by_alias=True, exclude_unset=True)


class SplitResults(Record):
    """The results of the baseline and of the methods on one split's kernels.

    Attributes:
        kernels: the digest of the kernels' key.
        model: the fingerprint of the weights.
        classes: each class by name, with the word that stands for it.
        labels: the classes' names, in order; of an earlier version there are none.
        rows: one a method.
        row_numbers: the texts of each side, by their rows in the task's files.
        train_labels: class numbers, as ``dev_labels`` and ``test_labels``.
        predictions: the test classes that each method predicted.
        predictors: folders of ``models/`` that were saved.
        saved_models: the (formula, solver) pairs whose models were asked for.
        versions: of what computed it.
    """

    FOLDER: ClassVar[str] = "splits"

    kernels: str | None = None
    model: str | None = None
    classes: list[str] = []
    labels: list[str] = []
    rows: list[Row] = Field(min_length=1)
    row_numbers: dict[str, list[int]] = {}
    train_labels: list[int] = []
    dev_labels: list[int] = []
    test_labels: list[int] = []
    predictions: dict[str, list[int]] = {}
    predictors: list[Inside] = []
    saved_models: list[tuple[str, str]] = []
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _has_a_result(self) -> SplitResults:
        if all(row.test is None for row in self.rows):
            raise ValueError("no row has a result on test")
        for row in self.rows:
            if len(self.predictions.get(row.method, ())) != len(self.test_labels):
                raise ValueError(f"{row.method} has no prediction of each test text")
        return self

    @property
    def methods(self) -> set[tuple[str, str]]:
        """The (formula, solver) pairs that have a row."""
        return {(row.formula, row.solver) for row in self.rows}

    @property
    def head(self) -> dict[str, Any]:
        """The beginning of every row of the split: task, k, seed and mode, and the number of texts a side."""
        first, sizes = self.rows[0], self.rows[0].model_extra or {}
        head = {"task": first.task, "k": first.k, "seed": first.seed, "mode": first.mode}
        return head | {name: sizes[name] for name in sizes if name.endswith("_texts")}

    @property
    def metrics(self) -> set[str]:
        """The metrics of the rows."""
        return {row.metric for row in self.rows}


class FineTuningRecord(Record):
    """A grid of trainings of one split: what each came to, and which was chosen on dev."""

    FOLDER: ClassVar[str] = "finetunings"

    format: Literal["lmntk finetuning 2"] = "lmntk finetuning 2"
    setup: str | None = None
    task: str
    k: int
    seed: int
    mode: str
    metric: str = "accuracy"
    method: str
    optimizer: str = ""
    loss: str = ""
    linearized: bool = False
    settings: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    trained: Any = None
    runs: list[dict[str, Any]] = []
    chosen: int | None = None
    dev: float | None = None
    test: float | None = None
    predictions: list[int] = []
    checkpoint: Inside | None = None
    notes: list[str] = []
    versions: dict[str, str] = {}

    @property
    def chosen_run(self) -> dict[str, Any]:
        """The training that was chosen on dev; empty where all diverged."""
        return {} if self.chosen is None else self.runs[self.chosen]

    def row(self, head: dict[str, Any]) -> Row:
        """Return the row of the table of results, with a split's ``head``."""
        run = self.chosen_run
        names = {"learning_rate": "learning_rate", "batch_size": "batch_size", "step": "best_step"}
        setting = {name: run[of_run] for name, of_run in names.items()} if run else {}
        return Row(
            **head,
            method=self.method,
            solver=FINE_TUNING,
            metric=self.metric,
            dev=self.dev,
            test=self.test,
            setting=setting,
            notes=self.notes,
            setup=self.setup,
        )


class DiagnosisRecord(Record):
    """The diagnosis of one fine-tuning of a split; ``about`` is the key of the training."""

    FOLDER: ClassVar[str] = "diagnoses"

    format: Literal["lmntk diagnosis 3"] = "lmntk diagnosis 3"
    about: str | None = None
    setup: str | None = None
    task: str
    k: int
    seed: int
    mode: str
    method: str
