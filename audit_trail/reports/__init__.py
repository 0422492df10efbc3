"""Reports: questions to the audit trail whose answer is facts and tables, written for people or for programs."""

from audit_trail.reports.daily_summary import daily_summary
from audit_trail.reports.data import as_csv, as_json
from audit_trail.reports.days import Period
from audit_trail.reports.failures import failure_analysis
from audit_trail.reports.knowledge import known_at, origin
from audit_trail.reports.page import as_page
from audit_trail.reports.report import Report
from audit_trail.reports.strategy_performance import strategy_performance
from audit_trail.reports.symbol_report import symbol_report
from audit_trail.reports.text import as_text

__all__ = [
    "Period",
    "Report",
    "as_csv",
    "as_json",
    "as_page",
    "as_text",
    "daily_summary",
    "failure_analysis",
    "known_at",
    "origin",
    "strategy_performance",
    "symbol_report",
]
