"""Tasks that people know, as pairs of text from templates of our own."""

from __future__ import annotations

from pilot.language.tasks.agreement import AGREEMENT
from pilot.language.tasks.greater_than import GREATER_THAN
from pilot.language.tasks.ioi import IOI
from pilot.language.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (IOI, GREATER_THAN, AGREEMENT)}

__all__ = ["TASKS", "Task"]
