"""Which training texts a prediction is shown with: those that it needs, not those whose terms of its sum are large."""

from __future__ import annotations

from collections.abc import Sequence

from lmntk.explanation.records import ExplainedText
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


def test_texts_are_ordered_by_their_influence() -> None:
    said = explained([-0.1, 0.2, 0.9, None, 0.0])
    assert weights_of(said) == said.influence
    assert strongest(said, 3) == ([2, 1], [0])
    assert strongest(said, 1) == ([2], [0])


def test_where_no_influence_is_known_by_their_contribution() -> None:
    said = explained([None] * 5)
    assert weights_of(said) == said.contributions
    assert strongest(said, 3) == ([0, 2], [1, 4])
