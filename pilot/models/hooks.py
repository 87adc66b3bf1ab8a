"""Hooks that read and replace head outputs of any model, on whole forwards.

A head's output z is what the output projection W_O reads, so a forward pre-hook on W_O sees it and can replace it,
whatever computed it. Nothing stays in the model once a hook is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from pilot.errors import PilotError
from pilot.interventions import HeadPatch, Intervention, check_intervention, head_counts
from pilot.models.attention import attention_pattern
from pilot.models.transformer import Block, PilotTransformer

# W_O in a layer of: the pilot transformer; Llama, Mistral, Qwen, Gemma; GPT-2; GPT-NeoX; OPT; Phi, Persimmon; Falcon,
# Bloom; GPT-J, CodeGen; GPT-Neo.
OUTPUT_PROJECTIONS = (
    "attn.out",
    "self_attn.o_proj",
    "attn.c_proj",
    "attention.dense",
    "self_attn.out_proj",
    "self_attn.dense",
    "self_attention.dense",
    "attn.out_proj",
    "attn.attention.out_proj",
)


def head_outputs(model: nn.Module, input_ids: Tensor) -> list[Tensor]:
    """z of every layer of one forward, as it enters W_O: n_layers tensors (batch, seq, n_heads, head_dim).

    input_ids   (batch, seq) int64, on the model's device

    Within `replaced` they are the replaced ones. Raises PilotError for a model whose W_O is not known.
    """
    n_layers, n_heads = head_counts(model)
    read: list[Tensor | None] = [None] * n_layers

    def reader(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def read_z(_: nn.Module, args: tuple[Any, ...]) -> None:
            read[layer] = _by_head(args[0], n_heads)

        return read_z

    with ExitStack() as handles:
        for layer, projection in enumerate(output_projections(model)):
            handles.enter_context(projection.register_forward_pre_hook(reader(layer)))
        model(input_ids)
    skipped = [layer for layer, z in enumerate(read) if z is None]
    if skipped:
        raise PilotError(f"the forward of {type(model).__name__} did not run the attention of layers {skipped}")
    return [z for z in read if z is not None]


@contextmanager
def replaced(model: nn.Module, intervention: Intervention, source: Sequence[Tensor]) -> Iterator[None]:
    """Within the block every forward of `model` has the intervention's heads replaced by those of `source`.

    source   for each layer the z to take them from, (batch or 1, seq, n_heads, head_dim)

    Blocks nest; where two replace the same head at the same position the inner one wins. Raises PilotError for a patch
    outside the model or the sequence and for a model whose W_O is not known; a forward within the block raises it for
    a source whose shape does not fit.
    """
    projections = output_projections(model)
    n_heads = head_counts(model)[1]
    if intervention and len(source) != len(projections):
        raise PilotError(f"source has {len(source)} layers, the model {len(projections)}")
    by_layer: dict[int, list[HeadPatch]] = {}
    for patch in intervention:
        check_intervention((patch,), model, source[0].shape[1])
        by_layer.setdefault(patch.layer, []).append(patch)
    with ExitStack() as handles:
        for layer, patches in by_layer.items():
            hook = _replacing(patches, source[layer], n_heads)
            handles.enter_context(projections[layer].register_forward_pre_hook(hook))
        yield


def _replacing(
    patches: Sequence[HeadPatch], source: Tensor, n_heads: int
) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """The hook on one layer's W_O that does these patches."""

    def replace(projection: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        z = _by_head(args[0], n_heads).clone()
        if source.dim() != 4 or source.shape[1:] != z.shape[1:] or len(source) not in (1, len(z)):
            shape = ", ".join(map(str, z.shape[1:]))
            raise PilotError(
                f"source of layer {patches[0].layer} has shape {tuple(source.shape)}; this run needs "
                f"({len(z)} or 1, {shape})"
            )
        for _, head, start, stop in patches:
            z[:, start:stop, head] = source[:, start:stop, head]
        return (z.flatten(2), *args[1:])

    return replace


def _by_head(x: Tensor, n_heads: int) -> Tensor:
    """What W_O reads, (batch, seq, n_heads * head_dim), as z (batch, seq, n_heads, head_dim)."""
    if x.dim() != 3:
        raise PilotError(
            f"the output projection reads shape {tuple(x.shape)}, not (batch, seq, width): heads are read and replaced "
            "in forwards that compute every position"
        )
    z: Tensor = x.unflatten(-1, (n_heads, -1))
    return z


def output_projections(model: nn.Module) -> list[nn.Module]:
    """W_O of every layer: the first of OUTPUT_PROJECTIONS that all layers of the model have.

    Raises PilotError for a model that has none of them.
    """
    n_layers, _ = head_counts(model)
    for layers in model.modules():
        if not isinstance(layers, nn.ModuleList) or len(layers) != n_layers:
            continue
        inside = [dict(layer.named_modules()) for layer in layers]
        for name in OUTPUT_PROJECTIONS:
            if all(name in modules for modules in inside):
                return [modules[name] for modules in inside]
    raise PilotError(
        f"{type(model).__name__} has no list of {n_layers} layers with a known output projection of attention: "
        f"{', '.join(OUTPUT_PROJECTIONS)}"
    )


def check_unpatched(model: nn.Module) -> None:
    """Raises PilotError if a patch is left set on an attention module (`patch_head_index`)."""
    for name, module in model.named_modules():
        if getattr(module, "patch_head_index", None) is not None:
            raise PilotError(f"{name}.patch_head_index is set: a sweep needs the unpatched model, set it to None first")


@torch.no_grad()
def attention_patterns(model: PilotTransformer, input_ids: Tensor) -> list[Tensor]:
    """Where every head of an unpatched run attends: n_layers tensors (batch, n_heads, seq, seq), rows add up to 1."""
    x = model.tokens(input_ids) + model.positions.weight[: input_ids.shape[1]]
    patterns = []
    for block in cast(Iterable[Block], model.blocks):
        q, k, _ = block.attn.queries_keys_values(block.ln1(x))
        patterns.append(attention_pattern(q, k))
        x = block(x)
    return patterns
