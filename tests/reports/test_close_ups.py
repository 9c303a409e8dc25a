"""Which splits are shown close up, in which order; and that a part that cannot be drawn takes nothing else with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmntk.reports import closeups as module
from lmntk.reports.closeups import close_ups
from lmntk.reports.drawing import Plot
from lmntk.runs.reading import Run


def record(task, k, mode, method, seed):
    return {
        "split": f"{task}-k{k}-seed{seed}-{mode}",
        "task": task,
        "k": k,
        "mode": mode,
        "method": method,
        "seed": seed,
        "logits": {"x": 1},
    }


def run_of(diagnoses, tasks):
    return Run("run", Path("run"), rows=[{"task": task} for task in tasks], diagnoses=diagnoses)


def test_the_order_is_that_of_tasks_k_prompt_and_sgd_and_of_each_the_first_split(monkeypatch):
    monkeypatch.setattr(module, "_plots", lambda one, identity, notes: [Plot(identity, "", "")])
    diagnoses = [
        record(task, k, mode, method, seed)
        for seed in (21, 13)
        for method in ("adamw fine-tuning", "sgd fine-tuning", "signgd fine-tuning")
        for mode in ("head", "prompt")
        for k in (8, 4)
        for task in ("b", "a")
    ]
    made, count = close_ups([run_of(diagnoses, ["b", "a"])], {"a": "A"}, [])
    assert count == 24 and len(made) == module.MOST
    shown = [(one.title, one.k, one.mode, one.method.split()[0], one.seed) for one in made]
    methods = ("sgd", "adamw", "signgd")
    of_task = [(8, "prompt", name, 13) for name in methods] + [(8, "head", name, 13) for name in methods]
    of_task = [
        (4, "prompt", "sgd", 13),
        (4, "prompt", "adamw", 13),
        *of_task,
    ]  # what is left out is what is worth the least
    assert shown == [(task, *place) for task in ("b", "A") for place in of_task]
    assert [one.plots[0].title for one in made] == [f"c{number}" for number in range(16)]


@pytest.mark.parametrize("error", [KeyError, IndexError, TypeError, ValueError, AttributeError])
def test_a_part_that_cannot_be_drawn_is_named(monkeypatch, error):
    def fails(*_):
        raise error("odd")

    monkeypatch.setattr(module, "logit_plot", fails)
    monkeypatch.setattr(module, "group_plot", lambda *_: Plot("groups", "", ""))
    diagnoses = [
        record("a", 4, "prompt", "sgd fine-tuning", 13)
        | {"groups": {"head": 1.0}, "kernels": {}, "spectrum": {}}
    ]
    notes: list[str] = []
    ((one,), _) = close_ups([run_of(diagnoses, ["a"])], {}, notes)
    assert [plot.title for plot in one.plots] == ["groups"]
    (note,) = notes
    assert note.startswith(
        f"logits of a-k4-seed13-prompt, sgd fine-tuning: not as expected ({error.__name__}: "
    )
