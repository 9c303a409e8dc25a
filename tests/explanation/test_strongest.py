"""Which training texts a prediction is shown with: those that it needs, not those whose terms of its sum are large."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lmntk.cli.commands.explain import print_explanation
from lmntk.explanation.records import ExplainedText, ExplanationRecord, TrainingText
from lmntk.explanation.written import strongest, weights_of


def explained(influence: Sequence[float | None]) -> ExplainedText:
    return ExplainedText(
        text="the lamp is dark",
        predicted="lamp",
        runner_up="chair",
        margin=1.0,
        offset=0.0,
        contributions=[7.0, -6.0, 0.5, None, -0.5],
        influence=list(influence),
        without=[None] * 5,
    )


@pytest.mark.parametrize("is_known", [True, False])
def test_the_command_says_what_its_figures_are(is_known: bool, capsys: pytest.CaptureFixture[str]) -> None:
    said = explained([-0.1, 0.2, 0.9, None, 0.0] if is_known else [None] * 5)
    training = [TrainingText(row=row, text=f"text {row}", label="lamp") for row in range(1, 6)]
    print_explanation(
        ExplanationRecord(
            name="fit", settings={}, labels=["chair", "lamp"], held_out=False, regime={"sentence": "not measured"},
            notes=[], versions={}, training=training, texts=[said],
        )
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert ("for     +0.900  lamp, row 3: 'text 3' (contribution +0.500)" in printed) == is_known
    assert ("for     +7.000  lamp, row 1: 'text 1'" in printed) != is_known
    assert ("the figures are contributions" in printed) != is_known


def test_texts_are_ordered_by_their_influence() -> None:
    said = explained([-0.1, 0.2, 0.9, None, 0.0])
    assert weights_of(said) == said.influence
    assert strongest(said, 3) == ([2, 1], [0])
    assert strongest(said, 1) == ([2], [0])


def test_where_no_influence_is_known_by_their_contribution() -> None:
    said = explained([None] * 5)
    assert weights_of(said) == said.contributions
    assert strongest(said, 3) == ([0, 2], [1, 4])
