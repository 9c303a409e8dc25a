"""The answer to a question about a kept training."""

from __future__ import annotations

from lmntk.attribution.shapley import MOST_ENUMERATED
from lmntk.errors import UserError
from lmntk.explanation.asked import Question
from lmntk.explanation.blocks import block_of, held_out_blocks
from lmntk.explanation.change import Change, change_record, on_held_out_texts, on_new_texts
from lmntk.explanation.explain import explanation_record
from lmntk.explanation.records import ChangeRecord, ExplanationRecord
from lmntk.explanation.sources import Source, open_source
from lmntk.system.progress import Progress


def answer(question: Question, progress: Progress) -> ExplanationRecord | ChangeRecord:
    """Return the answer to a question.

    Raises:
        UserError: there is nothing in the folder that could be asked, or the question is of texts that are not there.
    """
    return answer_from(open_source(question, progress), question)


def answer_from(source: Source, question: Question) -> ExplanationRecord | ChangeRecord:
    """Return the answer to a question about an opened source; see ``answer``."""
    trained = source.trained
    change = None
    if question.is_change:
        change = Change.of(trained, question.without, question.rows, question.relabel)
    check_shapley(question, len(trained.plain))
    new, total = source.new_texts()
    if change is not None:
        outcomes = on_held_out_texts(trained, change) if new is None else on_new_texts(trained, change, new)
        return change_record(trained, change, outcomes, source.regime(), [])
    if new is None:
        blocks, total = held_out_blocks(trained, question.most), len(trained.plain)
        which = "those that the others decide least well of"
    else:
        blocks = [block_of(trained, new)]
        which = "the first of" if new.labels is None else "those that are decided least well of"
    shown = sum(len(block.plain) for block in blocks)
    notes = [f"{shown} texts, {which} {total}; --texts explains more"] if shown < total else []
    return explanation_record(trained, blocks, source.regime(), question.shapley, notes)


def check_shapley(question: Question, texts: int) -> None:
    """Refuse to try every part of many texts.

    Raises:
        UserError: there are more than ten.
    """
    if question.shapley == 0 and texts > MOST_ENUMERATED:
        raise UserError(
            f"shapley: {texts} training texts have 2^{texts} parts, too many to train on each ({MOST_ENUMERATED} texts at most); "
            "use --shapley auto, which tries random orders and says their error"
        )
