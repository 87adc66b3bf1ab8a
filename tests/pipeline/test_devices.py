"""The analysis on a GPU: the stages find there what they find on the CPU, and sweeps keep it busy.

Where there is no GPU the CPU plays one (pretended_gpu.py).
"""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest
import torch
from support.pretended_gpu import pretended_gpu
from support.project import no_compiler

from pilot.interventions import head_subsets, single_heads
from pilot.sweep import SweepEngine, sweep
from stages import ablate, counterfactual, examples, patch, select_heads, train, trajectory

HAS_GPU = torch.cuda.is_available()
TOLERANCE = 0.05 if HAS_GPU else 1e-4  # another device's rounding may turn an answer, of 40 to 60


@pytest.fixture
def gpu(monkeypatch):
    """The pretended GPU; None where there is a true one."""
    if HAS_GPU:
        yield None
    else:
        with pretended_gpu(monkeypatch) as played:
            yield played


def analyse(trained, folder, device: str) -> None:
    """Every stage behind training, in the default places in `folder`."""
    shutil.copytree(trained.data, folder / "data")
    shutil.copytree(trained.runs, folder / "runs" / "pilot")
    shutil.copy(trained.params, folder)
    on, checkpoint = ["--device", device], ["--checkpoint", "runs/pilot/checkpoint_best.pt"]
    with contextlib.chdir(folder):
        assert ablate.main([*checkpoint, *on]) == 0
        assert select_heads.main([]) == 0
        for stage in (counterfactual, patch, examples):
            assert stage.main([*checkpoint, *on]) == 0
        assert trajectory.main(on) == 0


def flat(value, path: str = "") -> dict:
    """The numbers and words of nested dicts and lists, by their path."""
    if isinstance(value, (dict, list)):
        children = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, child in children for name, leaf in flat(child, f"{path}/{key}").items()}
    return {path: value}


def test_the_stages_find_the_same_on_a_gpu(trained, tmp_path, request):
    """The random draws are the CPU's on every device."""
    analyse(trained, tmp_path / "cpu", "cpu")
    request.getfixturevalue("gpu")
    analyse(trained, tmp_path / "cuda", "cuda")
    files = [path.relative_to(tmp_path / "cpu") for path in (tmp_path / "cpu").rglob("*.json")]
    assert {"ablation", "selection", "counterfactual", "patching", "examples", "epoch_003"} <= {f.stem for f in files}
    for file in files:
        cpu, cuda = (flat(json.loads((tmp_path / device / file).read_text())) for device in ("cpu", "cuda"))
        assert cuda.keys() == cpu.keys(), file
        for name, value in cpu.items():
            if not name.endswith("/fused"):  # says which implementation it was
                expected = pytest.approx(value, abs=TOLERANCE) if isinstance(value, float) else value
                assert cuda[name] == expected, f"{file}{name}"


@pytest.fixture
def arguments(small_model):
    torch.manual_seed(1)
    recipient, donor = torch.randint(0, 17, (2, 7, 6))
    subsets = head_subsets([patch for (patch,) in single_heads(small_model.config)])
    read = torch.tensor([[1, 5]] * 4 + [[0, 3]] * 3)
    return {"recipient": recipient, "donor": donor, "interventions": subsets, "read": read}


@pytest.mark.parametrize("impl", ["fused", "eager", "reference"])
def test_sweeps_agree(small_model, arguments, impl, request, monkeypatch):
    if impl == "fused" and (reason := no_compiler()):
        pytest.skip(reason)
    expected = sweep(small_model, **arguments, impl=impl)
    if request.getfixturevalue("gpu"):  # which computes with the CPU's operator
        monkeypatch.setattr("pilot.ops.dispatch.why_not_built", lambda device, warn: None)
    got = sweep(small_model.to("cuda"), **arguments, impl=impl)
    assert got.device.type == "cpu"
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(HAS_GPU, reason="only the pretended GPU counts")
def test_a_sweep_waits_for_the_gpu_once(small_model, arguments, gpu):
    """When it is done: in between, batches and chunks are given to the GPU one after the other."""
    engine = SweepEngine(small_model.to("cuda"), "eager")
    engine.rows, before = 4, gpu.waits
    engine.run(**arguments)
    assert gpu.waits == before + 1


@pytest.mark.skipif(not HAS_GPU, reason="no CUDA GPU here, and the pretended one has no backward pass")
def test_training_on_a_gpu(trained, tmp_path):
    arguments = ["--config", str(trained.params), "--data-dir", str(trained.data), "--output-dir", str(tmp_path)]
    assert train.main([*arguments, "--device", "cuda"]) == 0
    losses = [json.loads((folder / "train.json").read_text())["test"] for folder in (trained.runs, tmp_path)]
    assert flat(losses[1]) == pytest.approx(flat(losses[0]), abs=0.2)
