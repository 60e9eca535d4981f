"""Weights in 4 bits with a zero for every group: packed codes, and a layer that computes with them.

A row of a weight is cut into groups of `group_size` neighbouring inputs, and

    W[o, i] = (code[o, i] − zero[o, g(i)]) · scale[o, g(i)]        code in 0..15

Zeros are float32, and no integers: a change that is constant in every group is then a change of the
zeros alone. QA-LoRA (Xu et al. 2023, arXiv:2309.14717) trains adapters of that form, so that they
merge without rounding.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from evalkit.errors import WeightsError

if TYPE_CHECKING:
    import torch

_STEPS = 15
"""The largest code of 4 bits."""


def quantize_weight(
    weight: torch.Tensor, group_size: int, *, optimize: str | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rounds a weight to 4 bits, the range of each group cut into 15 equal steps.

    Args:
        weight: [out_features, in_features], in_features a multiple of `group_size`.
        group_size: inputs that share a scale and a zero.
        optimize: "hqq" moves the zeros as HQQ's solver does.

    Returns:
        Packed codes [out_features, in_features / 2] uint8; scales and zeros
        [out_features, in_features / group_size], bfloat16 and float32.
    """
    import torch

    rows, columns = weight.shape
    groups = weight.detach().float().reshape(rows, columns // group_size, group_size)
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    # A group of equal weights has no range, and a zero must still be able to move.
    least = torch.maximum(groups.abs().amax(dim=-1) * 1e-6, torch.tensor(1e-30))
    scale = torch.maximum((high - low) / _STEPS, least).to(torch.bfloat16)
    zero = -low / scale.float()
    if optimize == "hqq":
        zero = _hqq_zeros(groups, scale.float()[..., None], zero[..., None])
    return pack(_codes(groups, scale.float()[..., None], zero[..., None])), scale, zero


def expand_weight(
    packed: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Computes the weights that codes, scales and zeros stand for: [out_features, in_features].

    Raises:
        WeightsError: the zeros are not float32: something has cast the whole model.
    """
    import torch

    if zero.dtype != torch.float32:
        raise WeightsError(
            f"the zeros of group4 weights are {str(zero.dtype).removeprefix('torch.')}, not "
            "float32: the model was cast as a whole, which changes its weights. Load it again"
        )
    rows, groups = scale.shape
    codes = unpack(packed).reshape(rows, groups, -1).float()
    return codes.sub_(zero[..., None]).mul_(scale.float()[..., None]).reshape(rows, -1).to(dtype)


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Puts two codes into each byte, the one of the lower input in the lower half.

    Args:
        codes: [out_features, in_features] uint8, 0 to 15, in_features even.
    """
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Gives back the codes that `pack` put together: [out_features, in_features] uint8."""
    import torch

    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(start_dim=1)


def _codes(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    import torch

    return (groups / scale + zero).round().clamp(0, _STEPS).to(torch.uint8).flatten(start_dim=1)


def _hqq_zeros(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Finds zeros for an error that is small but for a few outliers.

    Half-quadratic quantisation (Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine
    Learning Models"), with the settings published there: the ℓp norm of the error with p = 0.7 is
    split into a shrinkage of the error and a least-squares fit of the zeros, in turn, for 20 rounds
    or until the mean error no longer falls.
    """
    import torch

    norm, beta, growth = 0.7, 10.0, 1.01
    best = float("inf")
    for _ in range(20):
        codes = (groups / scale + zero).round().clamp(0, _STEPS)
        error = groups - (codes - zero) * scale
        mean = float(error.abs().mean())
        if mean >= best:
            break
        best, kept = mean, zero
        size = error.abs()
        shrunk = error.sign() * torch.relu(size - size.clamp_min(1e-12).pow(norm - 1) / beta)
        zero = (codes - (groups - shrunk) / scale).mean(dim=-1, keepdim=True)
        beta *= growth
    return kept.squeeze(-1)


# ----------------------------------------------------------------------------- the layer


@functools.cache
def group4_class() -> type[Any]:
    """The class of layers that compute with group4 weights; made on first use, as torch is.

    `Group4Linear(in_features, out_features, bias=..., group_size=..., compute_dtype=...)` has
    `weight` (packed codes), `scale` and `zero`; `source_cls`, the class of layer that it was; and
    `dequantize()`, its weight in float32.
    """
    import torch

    class Group4Linear(torch.nn.Linear):
        def __init__(
            self,
            in_features: int,
            out_features: int,
            *,
            bias: bool,
            group_size: int,
            compute_dtype: torch.dtype,
        ) -> None:
            super().__init__(in_features, out_features, bias, device="meta")
            self.scale: torch.Tensor
            self.zero: torch.Tensor
            self.group_size = group_size
            self.compute_dtype = compute_dtype
            self.source_cls: type[torch.nn.Module] = torch.nn.Linear
            codes = torch.empty(out_features, in_features // 2, dtype=torch.uint8, device="meta")
            groups = (out_features, in_features // group_size)
            self.weight = torch.nn.Parameter(codes, requires_grad=False)
            # Said outright: transformers builds models under a default dtype of 16 bits.
            for name, dtype in (("scale", torch.bfloat16), ("zero", torch.float32)):
                self.register_buffer(name, torch.empty(groups, dtype=dtype, device="meta"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen, packed = x.to(self.compute_dtype), self.weight
            product: torch.Tensor = _product_class().apply(seen, packed, self.scale, self.zero)
            if self.bias is not None:
                product = product + self.bias.to(product.dtype)
            return product.to(x.dtype)

        def dequantize(self) -> torch.Tensor:
            return expand_weight(self.weight, self.scale, self.zero, torch.float32)

        def extra_repr(self) -> str:
            return f"{super().extra_repr()}, group_size={self.group_size}"

    return Group4Linear


@functools.cache
def _product_class() -> type[Any]:
    """The product with expanded weights, which are expanded again for the gradient, not kept."""
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, packed: Any, scale: Any, zero: Any) -> torch.Tensor:
            ctx.save_for_backward(packed, scale, zero)
            with torch.autocast(x.device.type, enabled=False):
                weight = expand_weight(packed, scale, zero, x.dtype)
                return torch.nn.functional.linear(x, weight)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            (gradient,) = gradients
            packed, scale, zero = ctx.saved_tensors
            return gradient @ expand_weight(packed, scale, zero, gradient.dtype), None, None, None

    return Product


def is_group4(module: object) -> bool:
    """Whether a layer stores group4 weights. Makes no class where none was made yet."""
    return type(module).__name__ == "Group4Linear"


def empty_layer(layer: Any, group_size: int, compute_dtype: torch.dtype, name: str) -> Any:
    """Makes a group4 layer in place of a Linear or Conv1D, without numbers, on torch's meta device.

    Raises:
        WeightsError: its inputs cannot be cut into groups.
    """
    import torch

    outputs, inputs = layer.weight.shape
    if not isinstance(layer, torch.nn.Linear):
        inputs, outputs = outputs, inputs
    if inputs % group_size:
        raise WeightsError(
            f"{name}: its {inputs} inputs cannot be cut into groups of {group_size}: choose a "
            "group_size that divides them, or name it in skip_modules"
        )
    new = group4_class()(
        inputs,
        outputs,
        bias=layer.bias is not None,
        group_size=group_size,
        compute_dtype=compute_dtype,
    )
    new.source_cls = type(layer)
    if layer.bias is not None:
        new.bias = layer.bias
    return new.train(layer.training)


def filled_layer(
    layer: Any, group_size: int, compute_dtype: torch.dtype, *, optimize: str | None, name: str
) -> Any:
    """Quantises a Linear or Conv1D: a new group4 layer on the same device.

    Raises:
        WeightsError: its inputs cannot be cut into groups.
    """
    import torch

    new = empty_layer(layer, group_size, compute_dtype, name)
    weight = layer.weight.data
    if not isinstance(layer, torch.nn.Linear):
        weight = weight.T
    codes, new.scale, new.zero = quantize_weight(weight, group_size, optimize=optimize)
    new.weight = torch.nn.Parameter(codes, requires_grad=False)
    return new
