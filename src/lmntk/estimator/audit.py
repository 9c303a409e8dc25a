"""From one labelled file to the labels that are probably wrong."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lmntk.diagnosis.regime import Regime
from lmntk.estimator.choice import Choice
from lmntk.estimator.doubts import check_number, doubts_of, rows_of
from lmntk.estimator.fit import choosing
from lmntk.estimator.given import FitInput
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.trust import ShortTraining, refuse_unmeasured, regime_entry, regime_in, trust_key
from lmntk.estimator.ways import key_of
from lmntk.experiment.configuration import Audit
from lmntk.reports.audit_page import write_audit_page
from lmntk.solvers.shared import in_classes
from lmntk.system.files import write_text
from lmntk.system.hashing import versions
from lmntk.system.kept import write_record
from lmntk.system.notices import say
from lmntk.system.progress import Progress

FORMAT = "lmntk audit 1"
NAME, TABLE = "audit.json", "audit.csv"
COLUMNS = (
    "row",
    "text",
    "label",
    "proposed",
    "probability",
    "margin",
    "self_influence",
    "flip_gain",
    "named",
)


class AuditRecord(BaseModel):
    """The record of an audit.

    Attributes:
        format: of this file.
        file: the labelled file.
        counts: texts of each class.
        accuracy: held out; the labels as they are count as right.
        low, high: between which it lies on new texts, 90 times in 100; see ``solvers.held_out.interval``.
        named: how many labels are named as probably wrong: the first rows.
        expected_false: the share of these that is expected to be right after all; None where none is named.
        false_discoveries: the share that was promised.
        wrong_share: the share of labels that was taken to be wrong.
        rows: of every text with ``COLUMNS``, the most suspicious first; ``row`` counts from 1, texts alone.
        contradictions: texts that stand in the file with several labels.
        setting: of the classifier that was chosen.
        model: its name and fingerprint.
        regime: whether the kernel regime holds, and how that is known.
        versions: of what computed it.
    """

    format: str
    file: str
    counts: dict[str, int]
    accuracy: float
    low: float
    high: float
    named: int
    expected_false: float | None
    false_discoveries: float
    wrong_share: float
    rows: list[dict[str, Any]]
    contradictions: list[str]
    setting: dict[str, Any]
    model: dict[str, Any]
    regime: dict[str, Any]
    versions: dict[str, str]

    @property
    def sentence(self) -> str:
        """The number of labels that are named, and how far to believe it."""
        share = f"if {100 * self.wrong_share:g} % of all labels are wrong"
        if not self.named:
            return f"no label is probably wrong, with at most {100 * self.false_discoveries:.0f} % false ones among those named, {share}"
        return (
            f"{self.named} of {len(self.rows)} labels are probably wrong; of these about {100 * (self.expected_false or 0):.0f} % "
            f"are expected to be right after all, {share}"
        )


def audit_file(options: Audit, given: FitInput, progress: Progress) -> AuditRecord:
    """Return which labels of a file are probably wrong, and write it to a folder as ``audit.json``, ``audit.csv`` and a page.

    Every text is decided by a classifier that has not seen its label, as ``fit`` holds it out. Cost: that of a fit.

    Raises:
        UserError: a mistake in the prompt or the model, or too few texts to hold any out.
    """
    check_number(given.texts)
    with choosing(options, given, progress, "audit", check_number) as chosen:
        choice, texts = chosen.choice, chosen.texts
        suspicion = doubts_of(choice, texts, options.false_discoveries, options.wrong_share)
        assert choice.standing is not None
        record = AuditRecord(
            format=FORMAT,
            file=options.file,
            counts=texts.counts,
            accuracy=choice.standing.accuracy,
            low=choice.standing.low,
            high=choice.standing.high,
            named=suspicion.named,
            expected_false=suspicion.expected_false,
            false_discoveries=options.false_discoveries,
            wrong_share=options.wrong_share,
            rows=rows_of(texts, suspicion),
            contradictions=contradictions_in(texts),
            setting={name: "inf" if value == math.inf else value for name, value in choice.setting.items()},
            model={"name": options.model, "fingerprint": chosen.pretrained.fingerprint},
            regime=regime_entry(regime_of(options, choice, texts, progress)),
            versions=versions(),
        )
        write_audit(options.out, record)
    return record


def regime_of(options: Audit, choice: Choice, texts: LabelledTexts, progress: Progress) -> Regime:
    """Return whether the kernel regime holds in training on the texts: measured earlier, or now where that is asked for.

    Raises:
        UserError: it is asked for, and the kernel is LoRA's, or one that classes share.
    """
    measured = choice.measured
    way, numbers = measured.way, texts.numbers.tolist()
    key = trust_key(key_of(way, texts.examples).digest, numbers)

    def training() -> ShortTraining:
        refuse_unmeasured(way.combinations is not None, way.trained)
        kernel = in_classes(measured.kernel, way.basis)
        return ShortTraining(
            way.deciding, way.trainable, way.pad_id, measured.texts, numbers, kernel, measured.logits
        )

    return regime_in(options.out, key, None if options.trust is None else training, progress)


def contradictions_in(texts: LabelledTexts) -> list[str]:
    """Return the texts that have several labels, each with them."""
    return [
        f"{' and '.join(map(repr, written))}: {', '.join(labels)}" for written, labels in texts.contradictions
    ]


def table_of(record: AuditRecord) -> str:
    """Return the rows as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(record.rows)
    return out.getvalue()


def write_audit(folder: Path, record: AuditRecord) -> None:
    """Write both files, and the page."""
    write_record(folder / NAME, record.model_dump())
    write_text(folder / TABLE, table_of(record))
    missing = write_audit_page(folder, record.model_dump(), record.sentence)
    if missing:
        say(missing)
