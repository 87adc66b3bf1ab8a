"""What dvc.yaml and pyproject.toml say of the code is true: dependencies of stages, their parameters, layers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support.project import ROOT, imported_files

from pilot.experiments import language
from pilot.language.tasks import TASKS
from stages import counterfactual, train

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
LANGUAGE_STAGES = YAML(typ="safe").load(ROOT / "language" / "dvc.yaml")["stages"]
# Code that every stage runs, and that decides no result: docstrings, lazy names, the class of errors.
UNLISTED = {ROOT / "pilot" / "__init__.py", ROOT / "pilot" / "errors.py", ROOT / "stages" / "__init__.py"}


def program(stage: dict) -> Path:
    module = stage["cmd"].split()[2]
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


@pytest.mark.parametrize(
    ("folder", "stage"),
    [
        *((ROOT, stage) for stage in STAGES.values()),
        *((ROOT / "language", stage) for stage in LANGUAGE_STAGES.values()),
    ],
)
def test_a_stage_depends_on_the_code_that_it_runs(folder, stage):
    deps = {(folder / dep).resolve() for dep in stage["deps"]}
    code = imported_files(program(stage)) - UNLISTED
    assert {path for path in code if not deps & {path, *path.parents}} == set(), "runs, but is not among its deps"
    folders = {dep for dep in deps if dep.is_relative_to(ROOT / "pilot") or dep.is_relative_to(ROOT / "stages")}
    assert {dep for dep in folders if not any(path.is_relative_to(dep) for path in code)} == set(), "never runs"


def test_training_depends_on_what_it_trains_with_and_nothing_else():
    deps = [dep for dep in STAGES["train"]["deps"] if not dep.startswith("data/")]
    assert deps == ["pilot/arithmetic", "pilot/models", "pilot/runtime", "pilot/training", "stages/train.py"]


def test_language_sweeps_resume_only_with_the_code_that_they_depend_on():
    folders = [dep for dep in LANGUAGE_STAGES["counterfactual"]["deps"] if dep.startswith("../pilot/")]
    assert list(language.CODE) == [dep.removeprefix("../").removesuffix(".py").replace("/", ".") for dep in folders]


def test_tasks_of_the_language_pipeline_are_known_or_files_of_pairs():
    tasks = YAML(typ="safe").load(ROOT / "language" / "params.yaml")["tasks"]
    assert {task for task in tasks if not (ROOT / "language" / "pairs" / f"{task}.jsonl").exists()} == set(TASKS)


@pytest.mark.parametrize("stage", [train, counterfactual])
def test_a_stage_resumes_only_with_the_code_that_it_depends_on(stage):
    name = stage.__name__.rpartition(".")[2]
    folders = [dep for dep in STAGES[name]["deps"] if dep.startswith("pilot/")]
    assert list(stage.CODE) == [dep.removesuffix(".py").replace("/", ".") for dep in folders]


def test_stages_that_run_the_operator_depend_on_its_sources():
    for stage in (*STAGES.values(), *LANGUAGE_STAGES.values()):
        assert ("csrc" in stage["deps"]) == ("pilot/ops" in stage["deps"])
        assert ("../csrc" in stage["deps"]) == ("../pilot/ops" in stage["deps"])


@pytest.mark.parametrize(
    "stage",
    [
        stage
        for stages in (STAGES, LANGUAGE_STAGES)
        for name, stage in stages.items()
        if name not in ("report", "overview")
    ],
)
def test_a_stage_depends_on_the_sections_that_it_reads(stage):
    """Reports read all of them."""
    calls = [node for node in ast.walk(ast.parse(program(stage).read_text())) if isinstance(node, ast.Call)]
    read = {ast.literal_eval(call.args[1]) for call in calls if getattr(call.func, "id", "") == "load_section"}
    assert {param.split(".")[0] for param in stage.get("params", [])} == read


def test_every_stage_says_what_it_does():
    stages = "generate train ablate select counterfactual attribution patch trajectory examples planted seeds report"
    assert list(STAGES) == stages.split()
    language_stages = "weights pairs select counterfactual attribution examples report overview"
    assert list(LANGUAGE_STAGES) == language_stages.split()
    assert all(stage["desc"] for stage in (*STAGES.values(), *LANGUAGE_STAGES.values()))


def imports_of_stages(root: Path) -> set[Path]:
    """The library's modules that import a stage, at any depth, and the stages that import another one."""
    library, stages = root / "pilot", root / "stages"
    wrong = {
        path for path in library.rglob("*.py") if any(f.is_relative_to(stages) for f in imported_files(path, root))
    }
    for path in stages.rglob("*.py"):
        others = {file for file in imported_files(path, root) if file.is_relative_to(stages)}
        if others - {path, *(folder / "__init__.py" for folder in path.parents)}:
            wrong.add(path)
    return wrong


def test_no_module_imports_a_stage():
    assert imports_of_stages(ROOT) == set()


@pytest.fixture
def project(tmp_path) -> Path:
    """A project of a few empty modules."""
    names = "pilot/__init__ pilot/models/__init__ pilot/models/deep/__init__ pilot/models/deep/model pilot/errors"
    for name in f"{names} stages/__init__ stages/train stages/report".split():
        path = (tmp_path / name).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    "importer", ["pilot/models/deep/model.py", "pilot/models/deep/__init__.py", "stages/report.py"]
)
@pytest.mark.parametrize(
    "statement", ["import stages.train", "from stages import counterfactual, train", "from stages.train import main"]
)
def test_a_planted_import_of_a_stage_is_found(project, importer, statement):
    (project / importer).write_text(statement + "\n")
    assert project / importer in imports_of_stages(project)


def test_what_a_module_imports_includes_the_packages_above_it(project):
    (project / "stages/train.py").write_text("from pilot.models.deep import model\n")
    (project / "pilot/models/__init__.py").write_text("import pilot.errors\n")
    names = "stages/train.py pilot/__init__.py pilot/models/__init__.py pilot/models/deep/__init__.py"
    expected = {project / name for name in f"{names} pilot/models/deep/model.py pilot/errors.py".split()}
    assert imported_files(project / "stages/train.py", project) == expected
