"""Sends a report to people."""

from audit_trail.reports.report import Report
from audit_trail.reports.text import as_text
from config import Settings
from messages import send_message


def send_summary(settings: Settings, report: Report, anchor: str) -> list[str]:
    """Send a report as text to every channel of ALERT_URLS; return a line for each that did not take it.

    With it goes the head of the audit trail's chain, so that somebody else has it too.
    """
    told = send_message(settings, report.title, f"{as_text(report)}\nHead of the audit trail: {anchor}")
    return [f"{channel}: {error}" for channel, error in told.items() if error is not None]
