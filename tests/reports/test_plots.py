"""What each picture shows: lines, points, bars and images of the very numbers that it is given, and the figures of its caption by hand."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lmntk.reports import accuracy_plot as accuracy
from lmntk.reports import kernel_plots as kernels
from lmntk.reports import training_plots as trainings
from lmntk.reports.closeups import _with_names
from lmntk.reports.drawing import MUTED, SERIES, style


@pytest.fixture
def drawn(monkeypatch):
    """Figures with their descriptions, as they are drawn; none becomes an image."""
    figures = []
    for module in (accuracy, kernels, trainings):
        monkeypatch.setattr(
            module, "to_svg", lambda figure, _, title, text: figures.append((figure, title, text)) or ""
        )
    with style():
        yield figures


def lines_of(panel):
    """The points of each line that has some, with its colour."""
    lines = [(to_hex(line.get_color()), *map(list, line.get_data())) for line in panel.lines]
    return [line for line in lines if line[1]]


def close(lines, expected):
    assert [line[0] for line in lines] == [line[0] for line in expected]
    for (_, *found), (_, *points) in zip(lines, expected, strict=True):
        for values, wanted in zip(found, points, strict=True):
            assert values == pytest.approx(wanted)


def key_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_linearized_against_real_logits(drawn):
    logits = {
        "fine_tuned": [[-1.0], [1.0], [3.0], [-3.0]],
        "linearized": [[-1.0], [-1.0], [5.0], [-3.0]],
        "labels": [0, 1, 1, 0],
    }
    plot = trainings.logit_plot("x", logits)
    ((figure, *_),) = drawn
    (panel,) = figure.axes
    close(  # the diagonal over what is shown, with a twentieth of the range beyond it
        lines_of(panel),
        [
            (MUTED, [-3.4, 5.4], [-3.4, 5.4]),
            (SERIES[0], [-1, -3], [-1, -3]),
            (SERIES[1], [1, 3], [-1, 5]),
        ],
    )
    assert panel.get_xlim() == pytest.approx((-3.4, 5.4)) and panel.get_ylim() == pytest.approx((-3.4, 5.4))
    assert key_of(figure) == ["class 0", "class 1"]
    # two errors of 2 in four: sqrt(2); the logits' own spread is sqrt(5)
    assert plot.caption == (
        "On the diagonal the linearization is exact. Over 4 test texts its root mean square error is 1.41, "
        "63.2 % of the real logits' spread; it gives the same class for 75 % of them."
    )
    assert trainings.logit_plot("x", logits | {"fine_tuned": None}) is None


def test_many_logits_are_thinned_evenly(drawn):
    m = 400
    real = np.arange(2.0 * m).reshape(m, 2)
    plot = trainings.logit_plot("x", {"fine_tuned": real, "linearized": real, "labels": None})
    ((figure, *_),) = drawn
    _, points = lines_of(figure.axes[0])
    assert len(points[1]) == 300 and {points[1][0], points[1][-1]} == {0.0, 2.0 * m - 1}
    assert key_of(figure) == [] and plot.caption.endswith("Drawn are 150 texts, evenly taken.")
    assert figure.axes[0].lines[1].get_label() == "a logit"


def test_long_labels_are_cut(drawn):
    logits = [[0.0], [1.0]]
    trainings.logit_plot(
        "x", {"fine_tuned": logits, "linearized": logits, "labels": ["twelve_chars", "thirteen_char"]}
    )
    assert key_of(drawn[0][0]) == ["thirteen_ch…", "twelve_chars"]


RUNS = [
    {"learning_rate": 0.1, "batch_size": 2, "steps": 9, "best_step": 8, "dev": 0.75, "status": "finished",
     "curve": [{"step": 1, "loss": 2.0, "dev": 0.5}, {"step": 8, "loss": 1.0, "dev": 0.75}]},
    {"learning_rate": 1.0, "batch_size": 2, "steps": 9, "status": "finished",
     "curve": [{"step": 1, "loss": 50.0}, {"step": 8, "loss": 40.0}]},
    {"learning_rate": 9.0, "batch_size": 2, "steps": 9, "status": "diverged", "curve": [{"step": 1, "loss": 70.0}]},
]  # fmt: skip


def test_learning_curves(drawn):
    """Of the chosen run strong, of other finished ones faint, of diverged ones nothing."""
    first = ("sgd fine-tuning", {"runs": RUNS, "chosen": 0, "test": 0.8})
    other = ("adamw fine-tuning", {"runs": [RUNS[0] | {"dev": None}], "chosen": 0})
    plot = trainings.curve_plot("x", [first, other], "accuracy")
    ((figure, *_),) = drawn
    upper, lower = figure.axes
    close(
        lines_of(upper),
        [(SERIES[0], [1, 8], [50, 40]), (SERIES[0], [1, 8], [2, 1]), (SERIES[1], [1, 8], [2, 1])],
    )
    close(lines_of(lower), [(SERIES[0], [1, 8], [50, 75]), (SERIES[1], [1, 8], [50, 75])])
    looks = [
        (line.get_alpha(), line.get_linewidth(), line.get_linestyle())
        for line in upper.lines
        if len(line.get_xdata())
    ]
    assert looks == [(0.35, 0.6, "-"), (1.0, 1.6, "-"), (1.0, 1.6, "--")]
    assert upper.get_ylim() == (0, 4.0)  # twice the chosen runs' most
    assert key_of(figure) == ["sgd fine-tuning", "adamw fine-tuning"]
    assert [line.get_linestyle() for line in figure.legends[0].get_lines()] == ["-", "--"]
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["training loss", "dev accuracy (%)"]
    assert plot.caption == (
        "sgd fine-tuning: learning rate 0.1, batch 2, best on dev at step 8 of 9 with 75.0, test 80.0; 1 of 3 runs diverged. "
        "adamw fine-tuning: learning rate 0.1, batch 2. Faint: 1 other settings of the grid."
    )


@pytest.mark.parametrize("chosen", [None, -1, 3])
def test_a_training_of_which_no_run_was_chosen(drawn, chosen):
    plot = trainings.curve_plot("x", [("sgd fine-tuning", {"runs": RUNS, "chosen": chosen})], "f1")
    assert plot.caption.startswith("sgd fine-tuning: no run was chosen; 1 of 3 runs diverged. Faint: 2 other")
    assert key_of(drawn[0][0]) == [] and drawn[0][0].axes[1].get_title(loc="left") == "dev F1 (x 100)"


def test_without_points_there_are_no_curves(drawn):
    assert trainings.curve_plot("x", [("a", {"runs": [RUNS[2], {"curve": []}], "chosen": 1})], "f1") is None
    assert trainings.trajectory_plot("x", [{"step": 1, "logit_error": None}]) is None


def test_real_and_emulated_training(drawn):
    emulation = {
        "steps": [0, 4],
        "real": [[[0.0], [1.0]], [[2.0], [3.0]]],
        "emulated": [[[0.0], [1.0]], [[2.5], [3.0]]],
        "error": 0.125,
        "texts": 9,
    }
    plot = trainings.emulation_plot("x", emulation)
    (panel,) = drawn[0][0].axes
    expected = [(0, [0, 2]), (0, [0, 2.5]), (1, [1, 3]), (1, [1, 3])]
    close(lines_of(panel), [(SERIES[number], [0, 4], values) for number, values in expected])
    assert [line.get_linestyle() for line in panel.lines[:4]] == ["-", "--", "-", "--"]
    assert plot.caption == (
        "2 logits of dev texts, a colour each: of these the emulation is never further than 0.5 from real training; "
        "of all 9 dev texts never further than 12.5 % of their logits' range."
    )
    emulation["emulated"] = [[[0.0], [1.0]], [[np.inf], [3.0]]]
    assert "without bound, from step 4 on" in trainings.emulation_plot("x", emulation).caption


@pytest.mark.parametrize(("largest", "marked"), [(1.5, False), (3.0, True)])
def test_along_training(drawn, largest, marked):
    points = [
        {"step": 2, "kernel_distance": 0.5, "logit_error": None},
        {"step": 6, "kernel_distance": largest, "logit_error": None},
    ]
    plot = trainings.trajectory_plot("x", points)
    (panel,) = drawn[0][0].axes
    close(lines_of(panel), [(SERIES[0], [2, 6], [0.5, largest])] + [(MUTED, [0, 1], [2, 2])] * marked)
    assert panel.get_ylim() == pytest.approx((0, 1.1 * largest))
    assert (
        plot.caption.startswith(f"At step 6: kernel distance {largest:g}.")
        and "distance of 2" in plot.caption
    )


BEFORE, AFTER = (
    [[4.0, 2.0, 1.0], [2.0, 4.0, 1.0], [1.0, 1.0, 4.0]],
    [[4.0, 3.0, 1.0], [3.0, 4.0, 1.0], [1.0, 1.0, 8.0]],
)


def test_kernels_before_and_after(drawn):
    plot = kernels.matrix_plot("x", {"before": BEFORE, "after": AFTER, "labels": [0, 0, 1]})
    figure = drawn[0][0]
    first, second, _ = figure.axes
    assert [panel.get_title(loc="left") for panel in (first, second)] == ["before fine-tuning", "after"]
    for panel, values in ((first, BEFORE), (second, AFTER)):
        (image,) = panel.images
        mean = np.eye(3) - 1 / 3
        np.testing.assert_allclose(image.get_array(), mean @ values @ mean, atol=1e-12)
        # one scale for both: to the largest entry of two texts, which is the -19/9 of the first or second with the third after
        assert (image.get_clim(), image.get_cmap().name) == (pytest.approx((-19 / 9, 19 / 9)), "PuOr")
        assert [line.get_data()[0][0] for line in panel.lines[1::2]] == [1.5]  # between the labels
    assert list(first.get_xticks()) == [0.5, 2.0] and [
        text.get_text() for text in first.get_yticklabels()
    ] == ["0", "1"]
    assert plot.caption.startswith(
        "The sgd kernel of 3 training texts, class logits summed, less what all have in common: before fine-tuning two texts of one class "
        "share -0.444 on average, of two classes -1.11; after fine-tuning two texts of one class share 0.556 on average, "
        "of two classes -2.11; an entry moves by 0.22 of itself on average before centring."
    )  # two of nine entries by a half, one by all of itself


@pytest.mark.parametrize(
    ("kernel", "limit", "mean"),
    [([[4.0, -3.0], [-3.0, 4.0]], 3.5, "0.5"), ([[2.0, 2.0], [2.0, 2.0]], 1.0, "2"), ([[5.0]], 1.0, "5")],
    ids=["of two texts", "of nothing but what all share", "of one text"],
)
def test_colours_end_at_the_largest_entry_of_two_texts(drawn, kernel, limit, mean):
    plot = kernels.matrix_plot("x", {"before": kernel, "labels": [0] * 9})
    assert drawn[0][0].axes[0].images[0].get_clim() == pytest.approx((-limit, limit))
    assert f"the mean entry is {mean} before centring" in plot.caption  # its labels do not fit
    assert plot.title == "Kernel of the training texts"


def test_a_spectrum_and_the_labels_share(drawn):
    plot = kernels.spectrum_plot(
        "x", {"eigenvalues": [1.0, 4.0, 0.0, 3.0], "alignment": [0.1, 0.495, 0.005, 0.4]}
    )
    upper, lower = drawn[0][0].axes
    close(lines_of(upper), [(SERIES[0], [1, 2, 3], [4, 3, 1])])
    close(
        lines_of(lower),
        [(SERIES[1], [1, 2, 3, 4], [49.5, 89.5, 99.5, 100]), (MUTED, [1, 2, 3, 4], [25, 50, 75, 100])],
    )
    assert plot.caption.startswith(
        "3 of 4 eigenvalues are above rounding; the largest has 50 % of their sum. The first 1 eigenvectors hold 50 % of the "
        "centred labels (random labels: 25 %); half of them is reached at eigenvector 2."
    )
    plot = kernels.spectrum_plot("x", {"eigenvalues": [1.0, 4.0], "alignment": [0.2, 0.2]})
    assert "hold 20 %" in plot.caption and "half of them" not in plot.caption
    kernels.spectrum_plot("x", {"eigenvalues": [1.0, 4.0]})
    assert len(drawn[-1][0].axes) == 1


def test_shares_of_groups(drawn):
    plot = kernels.group_plot("x", {"embeddings": 0.125, "layer 0": 0.5, "head": 0.375})
    (panel,) = drawn[0][0].axes
    bars = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in panel.patches]
    assert bars == [(pytest.approx(place), share) for place, share in enumerate((12.5, 50, 37.5))]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["embeddings", "layer 0", "head"]
    assert [(text.get_text(), text.xy) for text in panel.texts] == [
        ("12.5", (12.5, 0)),
        ("50.0", (50.0, 1)),
        ("37.5", (37.5, 2)),
    ]
    assert plot.caption.startswith(
        "Where the kernel comes from: layer 0 50.0 %, head 37.5 %, embeddings 12.5 % have"
    )


@pytest.mark.parametrize("count", [40, 41])
def test_many_groups_are_added_up(drawn, count):
    kernels.group_plot("x", {f"group {i}": 1 / count for i in range(count)})
    names = [text.get_text() for text in drawn[0][0].axes[0].get_yticklabels()]
    widths = [bar.get_width() for bar in drawn[0][0].axes[0].patches]
    assert len(names) == 40 and sum(widths) == pytest.approx(100)
    assert names[-1] == ("group 39" if count == 40 else "2 further")


def row(method, seed, test, k=4, mode="prompt"):
    return {
        "method": method,
        "mode": mode,
        "k": k,
        "seed": seed,
        "test": test,
        "metric": "accuracy",
        "task": "films",
    }


@pytest.mark.parametrize("ks", [(4,), (4, 8)])
def test_accuracies(drawn, ks):
    rows = [row("zero-shot", seed, 0.5, k) for seed in (13, 21) for k in ks]
    rows += [row("sgd ridge", seed, test, k) for seed, test in ((13, 0.7), (21, 0.9)) for k in ks]
    plot = accuracy.accuracy_plot("x", "Films", rows)
    figure, _, text = drawn[0]
    (panel,) = figure.axes
    places = {4: 1.0} if len(ks) == 1 else {4: 1 - 0.13, 8: 1 + 0.13}
    expected = []
    for method, mean, values in ((0, 50, (50, 50)), (1, 80, (70, 90))):
        for number, k in enumerate(ks):
            y = places[k] - 1 + method
            edges = (mean - (10 if method else 0), mean + (10 if method else 0))  # the population's deviation
            expected += [
                (SERIES[number], values, (y, y)),
                (SERIES[number], edges, (y, y)),
                (SERIES[number], (mean,), (y,)),
            ]
    lines = [(colour, tuple(x), tuple(y)) for colour, x, y in lines_of(panel)]
    close(lines[:-1], expected)
    assert lines[-1][1] == pytest.approx((50, 50))  # zero-shot's mean, as a line
    assert key_of(figure) == ([] if len(ks) == 1 else ["k = 4", "k = 8"])
    assert (
        f"At k = {ks[-1]} the highest mean is 80.0, of sgd ridge (prompt mode); zero-shot, the dashed line, is at 50.0."
        in plot.caption
    )
    assert "sgd ridge, prompt, k = 4: 80.0 (10.0)" in text and "zero-shot, prompt, k = 4: 50.0 (0.0)" in text


@pytest.mark.parametrize(
    ("names", "labels", "shown"),
    [(("bad", "good"), [0, 1, 1], ["bad", "good", "good"]), ((), [0, 1], [0, 1]), (("bad",), [0, 1], [0, 1])],
)
def test_classes_are_drawn_by_name_where_names_are_known(names, labels, shown):
    assert _with_names({"labels": labels}, names)["labels"] == shown
