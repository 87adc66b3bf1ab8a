"""The pipeline's programs: `python -m stages.train`; some are installed as commands, too."""

import sys
from functools import partial

from pilot.runtime.cli import run_program, say_interrupted

if sys.argv[0] == "-m":  # Python is still looking for the program, whose own imports will take seconds
    sys.excepthook = say_interrupted

train_pilot = partial(run_program, "stages.train")
eval_pilot_ablation = partial(run_program, "stages.ablate")
patch_pilot = partial(run_program, "stages.patch")
patch_heads = partial(run_program, "stages.language.patch_heads")
