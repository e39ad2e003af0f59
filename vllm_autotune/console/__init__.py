"""What a person sees: the only package that knows rich. Talk goes to stderr, results to stdout."""

from .outcomes import print_diagnosis, print_outcome
from .reports import print_report, print_reports
from .screen import Screen

__all__ = ["Screen", "print_diagnosis", "print_outcome", "print_report", "print_reports"]
