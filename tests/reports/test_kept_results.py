"""What a page takes from the files of a folder, what it leaves out, and what it says of that."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from report_runs import VERSIONS, row, write

from lmntk.runs.reading import read_run
from lmntk.runs.records import SplitResults

RIDGE = row("films", 2, 13, "prompt", "sgd ridge", 0.5)
RESULTS = {"split": "films", "rows": [RIDGE], "test_labels": [0, 1], "predictions": {"sgd ridge": [1, 1]}}
BROKEN = {
    "no rows": ({"rows": []}, "at least 1 item"),
    "no result": ({"rows": [RIDGE | {"test": None}]}, "no row has a result on test"),
    "too few predictions": ({"predictions": {"sgd ridge": [1]}}, "no prediction of each test text"),
    "none of a method": ({"rows": [RIDGE, RIDGE | {"method": "svc"}]}, "svc has no prediction"),
    "a name that leaves the folder": ({"split": "a/../../b"}, "not in the output folder"),
    "a model that leaves it": ({"predictors": ["/models"]}, "not in the output folder"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_results_of_a_split_are_whole(change, message):
    diverged = RIDGE | {"method": "svc", "test": None}
    whole = RESULTS | {
        "rows": [RIDGE, diverged],
        "predictions": RESULTS["predictions"] | {"svc": [0, 0]},
    }
    SplitResults.model_validate(whole)
    with pytest.raises(ValidationError, match=message):
        SplitResults.model_validate(RESULTS | change)


@pytest.mark.parametrize(("others", "named"), [((13,), "split 13"), ((13, 21), "splits 13, 21"), ((), "")])
def test_splits_of_other_settings_are_named(tmp_path, others, named):
    for seed in (13, 21, 42):
        setup = "other" if seed in others else "last"
        content = RESULTS | {
            "key": str(seed),
            "split": f"films-k2-seed{seed}-prompt",
            "rows": [RIDGE | {"seed": seed, "setup": setup}],
        }
        write(tmp_path / "splits" / f"{seed}.json", content)
    write(tmp_path / "configuration.json", {"setups": ["last", "other"], "versions": VERSIONS})
    run = read_run(tmp_path)
    assert [one["seed"] for one in run.rows] == [seed for seed in (13, 21, 42) if seed not in others]
    said = f"results, films, sgd ridge: {named} had other settings than the last run, so they do not enter its mean; left out."
    assert run.notes == ([said] if others else [])
