"""`attn_implementation="pilot"`: the attention of transformers' models, with some heads' outputs replaced.

transformers calls the function of that name in every attention layer, whatever the architecture, with queries, keys and
values that are ready to be multiplied. So replacing z there patches any of its models. Nothing of the model is changed:
what is to be replaced stands in a table beside it, for as long as a `with head_patches(...)` lasts.

Shapes: B rows, T positions (Tq queries, the last of Tk), H heads on H_kv key and value heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pilot.errors import PilotError
from pilot.interventions import HeadPatch, Intervention, check_intervention
from pilot.models.hooks import head_outputs, output_projections
from pilot.ops.dispatch import runs_fused
from pilot.ops.patched_attention import patched_attention

NAME = "pilot"


@dataclass(eq=False)  # each is itself: blocks of equal patches nest
class PatchedLayer:
    """What is replaced in one layer: the heads of `patches`, by those of z (B or 1, T, H, D).

    `impl` is that of `patched_attention`; `applied` counts the forwards in which the layer was patched.
    """

    patches: list[HeadPatch]
    z: Tensor
    impl: str
    applied: int = 0

    def source(self, like: Tensor) -> Tensor:
        """z for an attention whose own has the shape of `like` (B, T, H, D)."""
        if len(self.z) not in (1, len(like)) or self.z.shape[1:] != like.shape[1:]:
            layer, wanted = self.patches[0].layer, ", ".join(map(str, like.shape[1:]))
            raise PilotError(
                f"layer {layer} of the donor is {tuple(self.z.shape)}; this run needs ({len(like)} or 1, {wanted})"
            )
        return self.z.to(like)

    def replace(self, rows: int) -> Tensor:
        """What is replaced: (rows, T, H) bool."""
        mask = torch.zeros(self.z.shape[1:3], dtype=torch.bool, device=self.z.device)
        for patch in self.patches:
            mask[patch.start : patch.stop, patch.head] = True
        return mask.expand(rows, -1, -1)


# The patches of every attention module that is under `head_patches`, outer ones first.
_PATCHES: WeakKeyDictionary[nn.Module, list[PatchedLayer]] = WeakKeyDictionary()


def register() -> None:
    """Make `attn_implementation="pilot"` known to transformers. To call it again changes nothing.

    Its mask function is that of "sdpa". Without one of the same name transformers would hand over no mask, and models
    would see later positions.
    """
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def head_patches(
    model: PreTrainedModel, intervention: Intervention, donor: Tensor | Sequence[Tensor], *, impl: str = "auto"
) -> Iterator[None]:
    """Within the block every forward of `model` has the intervention's heads replaced by the donor's.

        with head_patches(model, (HeadPatch(layer=20, head=0),), donor_ids):
            logits = model(recipient_ids).logits

    donor   (B or 1, T) int64 token ids, run once when the block begins; or z for each layer, (B or 1, T, H, D), as
            `pilot.models.head_outputs` gives it
    impl    "fused": attention and replacement in one operator, `pilot.ops.patched_attention`; "eager": PyTorch's
            attention, then replacement, the same bits as hooks on W_O; "auto": fused where it runs

    The model's own attention implementation is put back afterwards. Blocks nest; the inner one wins. Raises PilotError
    for a patch outside the model, a model whose attention transformers cannot exchange, a donor that does not fit, and
    at the end of a block in which the model ran and a patch was not applied.
    """
    register()
    projections = output_projections(model)
    modules = [next(m for m in model.modules() if any(c is w for c in m.children())) for w in projections]
    with torch.no_grad():
        z = head_outputs(model, donor) if isinstance(donor, Tensor) else donor
    if len(z) != len(modules):
        raise PilotError(f"the donor has {len(z)} layers, the model {len(modules)}")
    check_intervention(intervention, model, z[0].shape[1])
    by_layer: dict[int, list[HeadPatch]] = {}
    for patch in intervention:
        by_layer.setdefault(patch.layer, []).append(patch)
    added = {modules[layer]: PatchedLayer(patches, z[layer], impl) for layer, patches in by_layer.items()}
    forwards = 0

    def count(*_: object) -> None:
        nonlocal forwards
        forwards += 1

    with ExitStack() as stack:
        stack.enter_context(_attention_implementation(model))
        stack.enter_context(model.register_forward_hook(count))
        for module, layer_patch in added.items():
            _PATCHES.setdefault(module, []).append(layer_patch)
            stack.callback(_PATCHES[module].remove, layer_patch)
        yield
    for layer_patch in added.values():
        if layer_patch.applied < forwards:
            raise PilotError(
                f"layer {layer_patch.patches[0].layer} was patched in {layer_patch.applied} of {forwards} forwards: "
                f"{type(model).__name__} does not take its attention from transformers' AttentionInterface there; use "
                "pilot.models.replaced, which needs no such interface"
            )


@contextmanager
def _attention_implementation(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model's attention is ours."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it; in layers under `head_patches`, with their heads replaced.

    query (B, H, Tq, D), key and value (B, H_kv, Tk, D); attention_mask (B, 1, Tq, Tk) bool, True where a query sees a
    key, or None: all positions up to its own. s_aux (H,) are attention sinks. Returns z (B, Tq, H, D), and None: no
    weights. Raises PilotError for attention that is not causal and, under a patch, for what it does not know.
    """
    patches = _PATCHES.get(module, [])
    plain = softcap is None and s_aux is None  # what scaled_dot_product_attention knows
    if patches and not getattr(module, "is_causal", True):
        raise PilotError(f"{type(module).__name__} sees later positions: only causal attention can be patched")
    if dropout and (patches or not plain):
        raise PilotError("the model is in training mode, and its attention drops out at random: call model.eval()")
    if plain and attention_mask is None and patches and _takes_fused(query, key, value, patches[0]):
        z, rest = _patched(query, key, value, scaling, patches[0]), patches[1:]
    elif plain:
        z, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        rest = patches
    else:
        z, rest = _attend(query, key, value, attention_mask, scaling, softcap, s_aux), patches
    for patch in rest:
        z = torch.where(patch.replace(len(z))[..., None], patch.source(z), z)
    for patch in patches:
        patch.applied += 1
    return z, None


def _takes_fused(query: Tensor, key: Tensor, value: Tensor, patch: PatchedLayer) -> bool:
    return query.shape[-1] == value.shape[-1] and runs_fused(patch.impl, query, key, value, patch.z)


def _patched(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, patch: PatchedLayer) -> Tensor:
    """Causal attention by the operator, (B, Tq, H, D), heads under the patch replaced as it goes."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    source, row = patch.source(q), torch.arange(len(q), device=q.device)
    source_row = row if len(source) == len(q) else torch.zeros_like(row)
    return patched_attention(q, k, v, source, row, source_row, patch.replace(len(q)), scale=scaling, impl="fused")


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Softmax attention written out, (B, Tq, H, D): with any mask, a softcap of its scores, and sinks."""
    heads_each = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, heads_each), repeat_kv(value, heads_each)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is None:
        n_queries, n_keys = scores.shape[-2:]
        mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=scores.device).tril(n_keys - n_queries)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is None:
        weights = scores.softmax(-1, dtype=torch.float32)
    else:
        sink = sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, sink.to(scores.dtype)], dim=-1).softmax(-1, dtype=torch.float32)[..., :-1]
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous()
