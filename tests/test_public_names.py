"""The public face: `import pilot` costs nothing, and every promised name is there whatever was imported first."""

import subprocess
import sys

import pytest
from support.project import ROOT

SWEEP = """
import torch
from pilot.models import ModelConfig, PilotTransformer
model = PilotTransformer(ModelConfig(n_layers=1, n_heads=2, d_model=8, d_mlp=8, context=4)).eval()
ids = torch.zeros(1, 4, dtype=torch.int64)
def check(sweep):
    assert sweep(model, ids, ids, [()], read=torch.tensor([[3]]), impl="eager").shape == (1, 1, 1, 17)
"""


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "code",
    [
        "from pilot import sweep; check(sweep)",
        "import pilot; check(pilot.sweep)",
        "from pilot.sweep import sweep; check(sweep)",
        "from pilot import sweep; from pilot.sweep import sweep as function, SweepEngine; check(sweep); check(function)",
        "from pilot.sweep import SweepEngine, sweep; from pilot import sweep as other; check(sweep); check(other)",
        "import pilot.sweep.plan; from pilot import sweep; check(sweep); check(pilot.sweep); check(pilot.sweep.sweep)",
        "import pilot, pilot.sweep; check(pilot.sweep); assert pilot.SweepEngine is pilot.sweep.SweepEngine",
        "from pilot import *; check(sweep)",
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["imported first", "models first"])
def test_sweep_is_a_function_and_a_package_in_any_order(code, first):
    imports, _, rest = code.rpartition("; check") if first else ("", "", "")
    run(f"{imports}\n{SWEEP}\ncheck{rest}" if first else f"{SWEEP}\n{code}")


def test_all_promised_names_are_there():
    run(
        "import pilot\n"
        "for name in pilot.__all__:\n"
        "    assert getattr(pilot, name) is not None and name in dir(pilot)\n"
        "assert pilot.patched_attention.__name__ == 'patched_attention'\n"
        "assert pilot.single_heads is __import__('pilot.interventions').interventions.single_heads"
    )


def test_importing_what_needs_no_torch_does_not_import_it():
    run("import pilot, pilot.errors, pilot.interventions, sys\nassert 'torch' not in sys.modules, 'torch is imported'")


def test_a_name_that_is_not_there_is_said():
    run(
        "import pilot\n"
        "try:\n    pilot.swep\n"
        "except AttributeError as error:\n    assert str(error) == \"module 'pilot' has no attribute 'swep'\""
    )
