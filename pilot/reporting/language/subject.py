"""What the pages of a language pipeline are about, by its params file."""

from __future__ import annotations

from pathlib import Path

from pilot.errors import PilotError
from pilot.language.params import WeightsParams
from pilot.language.tasks import TASKS
from pilot.reporting.language.page import Provenance
from pilot.reporting.language.results import Subject
from pilot.reporting.provenance import versions
from pilot.runtime.schema import load_section, read_params


def subject_of(model: str, task: str) -> Subject:
    """One of TASKS, or pairs of one's own under their own name."""
    if task not in TASKS:
        return Subject(model, task)
    name, _, description = TASKS[task].description.partition(": ")
    return Subject(model, name, description)


def subject(config: Path, task: str) -> Subject:
    """Raises PilotError for a params file without a section weights."""
    weights = load_section(config, "weights", WeightsParams)
    return subject_of(Path(weights.path or weights.file).stem, task)


def tasks(config: Path) -> list[str]:
    """The tasks of a params file. Raises PilotError where there are none."""
    found = read_params(config).get("tasks")
    if not isinstance(found, list) or not all(isinstance(task, str) for task in found) or not found:
        raise PilotError(f"{config}: tasks must be a list of names, such as [ioi]")
    return list(found)


def provenance(config: Path) -> Provenance:
    """The model, all parameters, and the versions of what was installed."""
    weights = load_section(config, "weights", WeightsParams)
    model: dict[str, object] = {"path": weights.path}
    if weights.path is None:
        model = {"file": weights.file, "package": weights.package, "SHA-256": weights.sha256}
    parameters = {
        f"{section}.{key}": value
        for section, values in read_params(config).items()
        if isinstance(values, dict) and section != "weights"
        for key, value in values.items()
    }
    return {"Model": model, "Parameters": parameters, "Versions": versions()}
