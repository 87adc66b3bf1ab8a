"""From a model to its program: `lower`, with one module for each family of models."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import nn

from pilot.sweep.lowering.folding import LoweringError
from pilot.sweep.program import Program

__all__ = ["LoweringError", "lower"]

# Which module knows a class of models, by the class's name: no library is imported to ask.
FAMILIES = {
    "PilotTransformer": "pilot",
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gpt_neox",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "llama",
    "Qwen3ForCausalLM": "llama",
    "Gemma3ForCausalLM": "gemma3",
}


@torch.no_grad()
def lower(model: nn.Module) -> Program:
    """The program of a model: the same function of the tokens, in the precision of the model's own weights.

    Norms are folded in float64, then rounded. Raises LoweringError, which says why, for a model of another class or
    with an option that a program has no word for.
    """
    family = next((FAMILIES[kind.__name__] for kind in type(model).__mro__ if kind.__name__ in FAMILIES), None)
    if family is None:
        raise LoweringError(f"the sweep engine cannot lower a {type(model).__name__}")
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise LoweringError(f"its weights are {names}, not float32 or float64: call model.float() first")
    module = importlib.import_module(f"{__name__}.{family}")
    lower_family: Callable[[nn.Module], Program] = module.lower
    return lower_family(model)
