"""The estimate and its sentence by hand, and the limits at which a fit chooses, estimates or calls probabilities rough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
from few_texts import numbered

from lmntk import Example, TangentClassifier
from lmntk.estimator import choice as choosing
from lmntk.estimator.choice import choose_way, folds_of
from lmntk.estimator.record import read_fit
from lmntk.estimator.standing import errors_among, standing_of
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import Measured
from lmntk.solvers.held_out import HeldOut


def decided(right: list[list[int]]) -> HeldOut:
    """Return held-out decisions of two classes on texts of the second, right (1) or wrong (0) in each round."""
    decisions = np.where(np.asarray(right) == 1, 1.0, -1.0)[:, :, None]
    return HeldOut(decisions, np.ones(len(right[0]), dtype=np.int64))


def texts_of(each: int, classes: int = 2) -> LabelledTexts:
    """Return so many different texts of each class; the tiny tokenizer tells the first six hundred apart."""
    pairs = [(n, c) for n in range(each) for c in range(classes)]
    names = (numbered(n * classes + c) if each < 100 else f"text {n} of {c}" for n, c in pairs)
    examples = tuple(Example(name, None, c) for name, (_, c) in zip(names, pairs, strict=True))
    return LabelledTexts(examples, tuple("abcdefgh"[:classes]))


def test_numbers_by_hand() -> None:
    own = decided([[1, 1, 1, 0], [1, 1, 0, 0]])  # shares of rounds: 1, 1, 1/2, 0
    standing = standing_of(
        own, [("worse", decided([[1, 0, 0, 0]])), ("better", decided([[1, 1, 1, 1]]))], "ab"
    )
    assert standing.accuracy == pytest.approx(0.625)
    assert (standing.texts, standing.chance) == (4, 0.5)
    assert [rival.name for rival in standing.rivals] == ["better", "chance", "worse"]
    better, chance, worse = standing.rivals
    # half a text for each of right-right, right-wrong, wrong-right, wrong-wrong; leads 0, 0, -1/2, -1, and of these +1 and -1
    spread = ((5 / 4 + 1) / 6 - (3 / 2 / 6) ** 2) ** 0.5
    assert (better.lead, better.error) == pytest.approx((-0.375, spread / 6**0.5))
    assert (worse.lead, worse.error) == pytest.approx((0.375, spread / 6**0.5))  # leads 0, 1, 1/2, 0
    # leads 1/2, 1/2, 0, -1/2
    assert (chance.lead, chance.error) == pytest.approx(
        (0.125, ((7 / 4) / 6 - (1 / 2 / 6) ** 2) ** 0.5 / 6**0.5)
    )


@pytest.mark.parametrize(
    ("texts", "rival", "outcome"),
    [(4, 0, "better"), (2, 0, "undecided"), (16, 1, "undecided")],
    ids=["all against none", "two texts", "all against all"],
)
def test_where_all_texts_go_one_way_the_error_is_not_zero(texts: int, rival: int, outcome: str) -> None:
    standing = standing_of(decided([[1] * texts]), [("the rival", decided([[rival] * texts]))], "ab")
    for each in standing.rivals:
        assert each.error > 1 / (texts + 2) - 1e-12
    error = next(each.error for each in standing.rivals if each.name == standing.rivals[0].name)
    assert f"± {100 * error:.1f} points" in standing.sentence
    assert standing.outcome == outcome


@pytest.mark.parametrize(
    ("rights", "rival", "outcome"),
    [
        # of 20 texts: a lead of 4 has an error of 1.84 (over 20 each), of 5 one of 1.99; of 3 one of 1.64
        ([1] * 20, [1] * 16 + [0] * 4, "better"),
        ([1] * 20, [1] * 17 + [0] * 3, "undecided"),
        ([1] * 16 + [0] * 4, [1] * 20, "worse"),
        ([1] * 17 + [0] * 3, [1] * 20, "undecided"),
        ([1] * 20, [1] * 20, "undecided"),
    ],
)
def test_a_lead_of_two_errors_tells_nothing(rights: list[int], rival: list[int], outcome: str) -> None:
    standing = standing_of(decided([rights]), [("the rival", decided([rival]))], "ab")
    assert standing.rivals[0].name == "the rival"
    assert standing.outcome == outcome
    says = {"better": "better than the best", "worse": "worse than the rival", "undecided": "cannot be told"}
    assert says[outcome] in standing.sentence
    assert ("Do not fine-tune this" in standing.sentence) == (outcome == "worse")


def of_two_classes(right: str) -> HeldOut:
    """Return held-out decisions on texts of two classes: + for right and - for wrong, the first half of the first class."""
    labels = np.arange(len(right)) // (len(right) // 2)
    signs = np.where(np.asarray(list(right)) == "+", 1.0, -1.0) * (2 * labels - 1)
    return HeldOut(signs[None, :, None], labels)


TURNS = {  # how often these texts of bad and good, own, rival, and from which share of which class on which rival is better
    "always one class": (8, "+++--- ++++--", "------ ++++++", ("", "", 0.6)),  # of bad from 4/7 on
    "a rival that is better on one": (8, "+++--- ++++++", "+++++- +++---", ("the rival", "bad", 0.6)),
    "a rival that may be better on one": (1, "+++++- ++++++", "++++++ +++---", None),
    "always right": (8, "++++++ ++++++", "++++++ ------", None),
    "a rare class alone": (
        8,
        "+++++- +++++-",
        "------ ++++++",
        None,
    ),  # 5/6 is beyond what is worth a sentence
}


@pytest.mark.parametrize("name", TURNS)
def test_from_some_share_of_a_class_on_a_rival_is_better(name: str) -> None:
    times, *patterns, expected = TURNS[name]
    own, rival = ("".join(times * part for part in pattern.split()) for pattern in patterns)
    standing = standing_of(of_two_classes(own), [("the rival", of_two_classes(rival))], ("bad", "good"))
    if expected is None:
        assert standing.turn is None
        assert standing.condition == (
            "It holds for texts whose classes are equally frequent, as in the labelled ones."
        )
        return
    by, label, share = expected
    turn = standing.turn
    assert turn is not None
    assert (turn.rival, turn.label, turn.share) == (by, label, pytest.approx(share))
    words = (
        f"{label!r}, the rival is better"
        if by
        else "of one class, it is better to decide for that class always"
    )
    assert standing.condition.endswith(f"If more than about {100 * share:.0f} % of new texts are {words}.")
    # the oracle: texts of both classes in such shares
    half = len(own) // 2
    chosen = slice(half) if label == "bad" else slice(half, None)  # of any class: good is the later one
    leads = np.asarray(
        [(a == "+") - (b == "+" if by else number in range(2 * half)[chosen])
         for number, (a, b) in enumerate(zip(own, rival, strict=True))], dtype=float,
    )  # fmt: skip
    inside, outside = leads[chosen].mean(), np.delete(leads, np.arange(2 * half)[chosen]).mean()
    for further, better in ((-0.01, True), (0.01, False)):
        p = share + further
        assert (p * inside + (1 - p) * outside > 0) == better


@pytest.mark.parametrize(("each", "classes"), [(16, 2), (16, 6), (5, 20)])
def test_where_a_fit_is_better_on_every_class_a_share_is_rarely_named(each: int, classes: int) -> None:
    """Four rivals are right on 70 of 100 texts of each class and the fit on 80: no share turns that round."""
    random = np.random.default_rng(0)
    labels, names = np.repeat(np.arange(classes), each), [str(number) for number in range(classes)]

    def decided_with(accuracy: float) -> HeldOut:
        right = random.random(len(labels)) < accuracy
        other = (labels + 1) % classes
        return HeldOut(np.eye(classes)[np.where(right, labels, other)][None], labels)

    named = [
        standing_of(decided_with(0.8), [(name, decided_with(0.7)) for name in "abcd"], names).turn is not None
        for _ in range(300)
    ]
    assert np.mean(named) < 0.05


@pytest.mark.parametrize(("comparisons", "errors"), [(1, 2.0), (7, 2.72), (81, 3.45)])
def test_more_comparisons_ask_for_more_errors(comparisons: int, errors: float) -> None:
    assert errors_among(comparisons) == pytest.approx(errors, abs=0.01)


def test_a_class_of_few_texts_or_a_worse_classifier_says_nothing_of_shares() -> None:
    own, rival = of_two_classes(8 * "+++---" + 8 * "++++--"), of_two_classes(48 * "-" + 48 * "+")
    few = standing_of(own, [("the rival", rival)], ("bad", "good"), is_estimate=False)
    assert "If more than" not in few.condition
    worse = standing_of(
        of_two_classes("+++" * 4 + "---" * 4), [("the rival", of_two_classes("+" * 24))], ("a", "b")
    )
    assert worse.outcome == "worse"
    assert "If more than" not in worse.condition


@pytest.mark.parametrize(("each", "few"), [(2, True), (4, True), (5, False)])
def test_with_less_than_five_of_a_class_nothing_is_chosen(each: int, few: bool) -> None:
    assert texts_of(each).are_few == few


@pytest.mark.parametrize(
    ("each", "outputs", "rounds", "folds"),
    [(16, 1, 20, 16), (100, 1, 20, 20), (101, 1, 5, 20), (3000, 1, 5, 20), (3001, 1, 1, 10), (10, 11, 5, 10)],
    ids=["few", "200 rows", "202 rows", "6,000 rows", "6,002 rows", "many logits"],
)
def test_large_kernels_get_fewer_rounds(each: int, outputs: int, rounds: int, folds: int) -> None:
    dealt = folds_of(texts_of(each), outputs, 0)
    assert (len(dealt), {len(each_round) for each_round in dealt}) == (rounds, {folds})


def test_no_training_is_the_logits_less_their_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(10) % 2
    logits = 3.0 + np.where(labels == 1, 1.0, -1.0)[:, None]  # perfect, once their mean is gone
    texts = texts_of(5)
    model = str(tiny.write_model(tmp_path))
    words = {"a": "great", "b": "terrible"}
    classifier = TangentClassifier(model, "{a} it was {mask}.", words, mode="prompt", dtype="float64")
    classifier.fit([example.text_a for example in texts.examples], [texts.labels[n] for n in texts.numbers])
    way = classifier.seen_.way
    monkeypatch.setattr(choosing, "rivals_of", lambda *given: [])
    kernel = np.eye(10)[:, None, :, None]
    choice = choose_way([Measured(way, [], kernel, logits)], texts)
    assert choice.setting == {"no_training": "centred"}
    assert not choice.has_direction
    np.testing.assert_allclose(choice.decisions(kernel, logits), logits - 3.0)
    assert choice.held_out is not None
    assert choice.held_out.accuracy == 1.0


@pytest.mark.parametrize(("each", "rough"), [(14, True), (15, False)], ids=["28 texts", "30 texts"])
def test_probabilities_of_less_than_thirty_texts_are_rough(tmp_path: Path, each: int, rough: bool) -> None:
    texts = texts_of(each)
    classifier = TangentClassifier(str(tiny.write_model(tmp_path / "model")))
    classifier.fit([example.text_a for example in texts.examples], texts.numbers)
    classifier.save(tmp_path / "fit")
    assert read_fit(tmp_path / "fit").rough == rough
