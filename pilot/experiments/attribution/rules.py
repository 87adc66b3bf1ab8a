"""Backward rules of relevance patching (RelP: Rezaei Jafari et al. 2025, arXiv:2508.21258).

Within `RelevanceRules` a forward computes what it always does, but its gradient is that of a model in which

    attention patterns                     are constants
    the scale of LayerNorm and RMSNorm     is a constant
    an activation f(x)                     is x times the constant f(x) / x
    the product of a gate and its input    passes half of the gradient to each

so that what is attributed to z reaches the logits by linear steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class RelevanceRules(TorchFunctionMode):
    """A context: forwards within it are differentiated by the rules. It sees PyTorch's functions, whoever calls them,
    and so the models of any library that uses these.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = _RULES.get(func)
        if rule is None:
            return func(*args, **(kwargs or {}))
        return rule(func, *args, **(kwargs or {}))


def _constant(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    return func(*args, **kwargs).detach()


def _times_constant(func: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        y = func(x, *args, **kwargs)
        ratio = torch.where(x == 0, 0.5, y / x)  # GELU and SiLU have slope 1/2 at zero
    result = x * ratio
    result.is_activation = True  # type: ignore[attr-defined]  # a product with it is that of a gate
    return result


def _product(func: Callable[..., Tensor], a: Any, b: Any, **kwargs: Any) -> Tensor:
    result = func(a, b, **kwargs)
    if getattr(a, "is_activation", False) or getattr(b, "is_activation", False):
        return (result + result.detach()) / 2
    return result


def _attention(func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return func(q.detach(), k.detach(), v, *args, **kwargs)


def _layer_norm(
    _: Any, x: Tensor, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    return _scaled(x - x.mean(-1, keepdim=True), eps, weight, bias)


def _rms_norm(_: Any, x: Tensor, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Tensor:
    return _scaled(x, torch.finfo(x.dtype).eps if eps is None else eps, weight, None)


def _scaled(x: Tensor, eps: float, weight: Any, bias: Any) -> Tensor:
    """x divided by its root mean square, which counts as a constant."""
    normed = x * (x.detach().square().mean(-1, keepdim=True) + eps).rsqrt()
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


_RULES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    **dict.fromkeys((torch.softmax, Tensor.softmax, F.softmax), _constant),
    **dict.fromkeys((torch.rsqrt, Tensor.rsqrt), _constant),  # RMSNorm written out
    **dict.fromkeys((torch.tanh, Tensor.tanh), _constant),  # GELU written out: x (1 + tanh(...)) / 2
    **dict.fromkeys((F.gelu, F.silu), _times_constant),
    **dict.fromkeys((torch.mul, Tensor.mul), _product),
    F.scaled_dot_product_attention: _attention,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
}
