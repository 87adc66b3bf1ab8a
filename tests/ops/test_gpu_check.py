"""tests/gpu_check.sh where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from support.project import ROOT


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_does_nothing(tmp_path):
    folder = tmp_path / "logs"
    environment = {**os.environ, "PYTHON": sys.executable}
    command = [str(ROOT / "tests" / "gpu_check.sh"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    message = f"gpu_check: {sys.executable} finds no PyTorch with a CUDA GPU here\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)
    assert not folder.exists()
