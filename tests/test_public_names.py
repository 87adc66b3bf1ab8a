"""The public face: `import pilot` costs nothing, and every promised name is there whatever was imported first."""

import subprocess
import sys

from support.project import ROOT

MODEL = """
from pilot.models import ModelConfig, PilotTransformer
model = PilotTransformer(ModelConfig(n_layers=1, n_heads=2, d_model=8, d_mlp=8, context=4)).eval()
ids = torch.zeros(1, 4, dtype=torch.int64)
"""
CALL = "assert {}(model, ids, ids, [()], read=torch.tensor([[3]]), impl='eager').shape == (1, 1, 1, 17)"
ORDERS = [
    (["from pilot import sweep", MODEL], ["sweep"]),
    ([MODEL, "import pilot"], ["pilot.sweep"]),
    ([MODEL, "from pilot.sweep import sweep"], ["sweep"]),
    (["from pilot import sweep as first", "from pilot.sweep import sweep, SweepEngine", MODEL], ["first", "sweep"]),
    (["from pilot.sweep import sweep as first, SweepEngine", "from pilot import sweep", MODEL], ["first", "sweep"]),
    (["import pilot.sweep.plan", "from pilot import sweep", MODEL], ["sweep", "pilot.sweep", "pilot.sweep.sweep"]),
    ([MODEL, "from pilot import *"], ["sweep"]),
]


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_sweep_is_a_function_and_a_package_in_any_order():
    """Each order in a process of its own, forked from one that has imported PyTorch and nothing of pilot."""
    programs = ["\n".join([*imports, *map(CALL.format, names)]) for imports, names in ORDERS]
    run(
        "import os, torch\n"
        f"for program in {programs!r}:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        exec(program)\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0, program"
    )


def test_all_promised_names_are_there():
    run(
        "import pilot\n"
        "for name in pilot.__all__:\n"
        "    assert getattr(pilot, name) is not None and name in dir(pilot)\n"
        "assert pilot.patched_attention.__name__ == 'patched_attention'"
    )


def test_importing_what_needs_no_torch_does_not_import_it():
    run("import pilot, pilot.errors, pilot.interventions, sys\nassert 'torch' not in sys.modules, 'torch is imported'")


def test_a_name_that_is_not_there_is_said():
    run(
        "import pilot\n"
        "try:\n    pilot.swep\n"
        "except AttributeError as error:\n    assert str(error) == \"module 'pilot' has no attribute 'swep'\""
    )
