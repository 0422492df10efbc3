"""Reports: questions to the audit trail whose answer is facts and tables, written for people or for programs."""

from audit_trail.reports.daily_summary import daily_summary
from audit_trail.reports.data import as_csv, as_json
from audit_trail.reports.text import as_text

__all__ = ["as_csv", "as_json", "as_text", "daily_summary"]
