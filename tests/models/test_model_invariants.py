"""The list of what has to hold of a model is the one that the documents show, and names whatever is found."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from lmntk.checkup.findings import FACTS, Finding
from lmntk.models.invariants import INVARIANTS, READING, InvariantError

DOCUMENT = Path(__file__).parents[2] / "docs" / "checks.md"


def test_the_document_has_the_list():
    rows = [line for line in DOCUMENT.read_text(encoding="utf8").splitlines() if line.startswith("| ")]
    fields = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]
    assert fields == [[i.name, i.holds, i.otherwise, i.when, i.cost] for i in INVARIANTS]


def test_names_are_unique_and_no_facts():
    names = [invariant.name for invariant in INVARIANTS]
    assert len(set(names)) == len(names) and not set(names) & set(FACTS)


def test_a_finding_of_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="no invariant is called 'luck'"):
        Finding("luck", "fine", "bears no name")


def test_a_broken_invariant_is_the_same_in_another_process():
    # what was pickled a moment ago, as a worker's error is
    error = pickle.loads(pickle.dumps(READING.broken("read elsewhere")))
    assert type(error) is InvariantError
    assert (error.invariant, str(error)) == ("reading", "read elsewhere")
