"""The page of an audit: named labels first, the next ones folded away, and texts that stay text."""

from __future__ import annotations

import pytest
from fit_records import audit_record
from html_page import Page

from lmntk.reports.audit_page import contents_of, write_audit_page
from lmntk.reports.page import fill


@pytest.mark.parametrize(
    ("named", "shown", "unshown", "others"), [(0, 0, 0, 20), (3, 3, 0, 20), (55, 50, 5, 5), (60, 50, 10, 0)]
)
def test_named_labels_come_first_and_the_next_are_folded_away(named, shown, unshown, others):
    text = fill("audit.html", contents_of(audit_record(named=named), "some are named"))
    rows = text.split('class="settings suspects"')
    found = [part.split("</table>")[0].count("<tr><td") for part in rows[1:]]
    assert found == [count for count in (shown, others) if count]
    assert (f"And {unshown} more" in text) == (unshown > 0)
    assert ("None is named" in text) == (named == 0)
    assert f"<b>{named}</b>" in text
    assert "<b>80.0 %</b>" in text
    assert "<b>50.0 %</b>" in text
    assert "<b>60</b>" in text
    assert "66.0 to 90.0 %" in " ".join(text.split())


def test_what_a_user_wrote_stays_text(tmp_path):
    attack = "<script>alert(1)</script><img src=x>"
    assert write_audit_page(tmp_path, audit_record(attack, named=2), attack) == ""
    text = (tmp_path / "audit.html").read_text()
    assert {"script", "img"}.isdisjoint(Page(text).tags)
    assert text.count("&lt;script&gt;") > 20
