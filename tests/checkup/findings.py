"""What a report of the doctor finds, by name."""

from __future__ import annotations


def faults(report):
    return {finding["check"]: finding for finding in report["findings"] if finding["level"] == "fault"}


def finding_of(report, name):
    [found] = [finding for finding in report["findings"] if finding["check"] == name]
    return found
