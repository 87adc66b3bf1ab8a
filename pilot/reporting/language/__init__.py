"""The pages of language models: one for each task or file of pairs, and one that puts tasks side by side."""

from __future__ import annotations

from pilot.reporting.language.page import write_overview, write_page
from pilot.reporting.language.results import Subject

__all__ = ["Subject", "write_overview", "write_page"]
