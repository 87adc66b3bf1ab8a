"""Tasks that people know, as pairs of text from templates of our own."""

from __future__ import annotations

from pilot.language.tasks.ioi import IOI
from pilot.language.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (IOI,)}

__all__ = ["TASKS", "Task"]
