"""A step of a run: one kind of work, asked for split by split, kept by its key and done where it is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lmntk.experiment.session import GivenCheckpoint
from lmntk.experiment.shared_model import SharedModel
from lmntk.finetuning.method import FineTuningMethod
from lmntk.runs.records import Record
from lmntk.runs.split import Split

Subject = FineTuningMethod | GivenCheckpoint


@dataclass(frozen=True)
class Job:
    """The work of a step on one split; ``subject`` is what is trained or diagnosed, if the step has several."""

    split: Split
    subject: Subject | None = None


class Step(Protocol):
    """One kind of work. A run is one loop over its steps."""

    def of(self, shared: SharedModel) -> list[Job]:
        """Return the jobs that the experiment asks for on the splits of a model."""

    def kept(self, shared: SharedModel, job: Job) -> Record | None:
        """Return the record of a job that is there already, with all of its files."""

    def do(self, shared: SharedModel, jobs: Sequence[Job]) -> Iterator[Job]:
        """Do the jobs that are missing; yield each when its record is written."""

    def end(self, shared: SharedModel, was_done: bool) -> None:
        """Remove what the step left in the scratch folder for these splits."""


def missing(step: Step, shared: SharedModel) -> list[Job]:
    """Return the jobs of a step that are not kept."""
    return [job for job in step.of(shared) if step.kept(shared, job) is None]
