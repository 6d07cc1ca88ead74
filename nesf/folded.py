"""Modulated decoders as they are asked once their weights stay: rounded, folded, and in place.

Reading a crystal asks its fields a thousand times with one set of weights, and what that costs is
less the products than the passes over their results.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nesf.decoders import FieldDecoder
from nesf.mlps import ModulatedMLP

Decoder = TypeVar("Decoder", bound=FieldDecoder)


class FoldedMLP(nn.Module):
    """A `ModulatedMLP` for inference.

    The biases of the contracting layers, which only ever reach an expanding layer or the last one,
    are folded into the biases of these; and these, with the latent's scale, into its shift.

    Args:
        mlp: whose weights are taken as they are now.
        dtype: of weights and products.

    Attributes:
        depth: blocks K after the entering one, width W.
        modulation_weight: (2(K+1)W, L), for each block a scale and a shift.
        modulation_bias: (2(K+1)W,).
        enter: (W, F).
        expand: (K, W, W).
        contract: (K, W, W).
        leave_weight: (O, W).
        leave_bias: (O,).
        biases: (K + 1, W) of what is scaled in each block, folded; float32 at least.
    """

    modulation_weight: Tensor
    modulation_bias: Tensor
    enter: Tensor
    expand: Tensor
    contract: Tensor
    leave_weight: Tensor
    leave_bias: Tensor
    biases: Tensor

    def __init__(self, mlp: ModulatedMLP, dtype: torch.dtype) -> None:
        super().__init__()
        self.depth = len(mlp.expand)
        exact = torch.promote_types(dtype, torch.float32)
        with torch.no_grad():
            own = {name: weight.detach().to(exact) for name, weight in mlp.named_parameters()}
            expand = torch.stack([own[f"expand.{i}.weight"] for i in range(self.depth)])
            contract = torch.stack([own[f"contract.{i}.weight"] for i in range(self.depth)])
            carried = torch.zeros_like(own["enter.bias"])  # what all blocks so far have added
            biases = [own["enter.bias"]]
            for i in range(self.depth):
                biases.append(own[f"expand.{i}.bias"] + expand[i] @ carried)
                carried = carried + own[f"contract.{i}.bias"]
            rounded_ones = {
                "modulation_weight": own["modulation.weight"],
                "modulation_bias": own["modulation.bias"],
                "enter": own["enter.weight"],
                "expand": expand,
                "contract": contract,
                "leave_weight": own["leave.weight"],
                "leave_bias": own["leave.bias"] + own["leave.weight"] @ carried,
            }
            for name, tensor in rounded_ones.items():
                self.register_buffer(name, tensor.to(dtype))
            self.register_buffer("biases", torch.stack(biases))

    def forward(
        self, latent: Float[Tensor, "b l"], features: Float[Tensor, "b q f"]
    ) -> Float[Tensor, "b q o"]:
        """Latent (B, L) and query features (B, Q, F) to outputs (B, Q, O)."""
        return self.conditioned(self.condition(latent), features)

    def condition(self, latent: Float[Tensor, "b l"]) -> Float[Tensor, "b c"]:
        """What multiplies each block's hidden units, and what is added then, in turn."""
        codes = F.linear(latent.to(self.enter.dtype), self.modulation_weight, self.modulation_bias)
        # (B, 2(K+1)W) -> (B, K + 1, 2, W)
        parts = codes.to(self.biases.dtype).view(len(codes), len(self.biases), 2, -1)
        scale = 1 + parts[:, :, 0]
        shift = parts[:, :, 1] + scale * self.biases
        return torch.stack([scale, shift], dim=2).to(codes.dtype).flatten(1)

    def scales_and_shifts(
        self, condition: Float[Tensor, "b c"]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Those of each block, (B, 1, W) each."""
        # (B, 2(K+1)W) -> 2(K+1) of (B, 1, W)
        parts = condition.unsqueeze(1).chunk(2 * len(self.biases), dim=-1)
        return parts[::2], parts[1::2]

    def conditioned(
        self, condition: Float[Tensor, "b c"], features: Float[Tensor, "b q f"]
    ) -> Float[Tensor, "b q o"]:
        """`forward` from what `condition` says of the latent."""
        scale, shift = self.scales_and_shifts(condition)
        shape = (*features.shape[:-1], -1)
        hidden = features.flatten(0, 1).to(self.enter.dtype) @ self.enter.mT  # (BQ, W)
        hidden = _modulated_gelu(hidden.view(shape), scale[0], shift[0]).flatten(0, 1)
        for i, (expand, contract) in enumerate(zip(self.expand, self.contract, strict=True), 1):
            inner = hidden @ expand.mT
            inner = _modulated_gelu(inner.view(shape), scale[i], shift[i]).flatten(0, 1)
            out = None if torch.is_grad_enabled() else hidden
            hidden = torch.addmm(hidden, inner, contract.mT, out=out)
        return F.linear(hidden, self.leave_weight, self.leave_bias).view(shape)


def _modulated_gelu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """GELU of shift + scale x, in the place of x unless it may be differentiated."""
    if torch.is_grad_enabled():
        return F.gelu(torch.addcmul(shift, x, scale))
    # the in-place form has no name in torch.nn.functional
    return torch.ops.aten.gelu_(torch.addcmul(shift, x, scale, out=x))


def rounded(decoder: Decoder) -> Decoder:
    """The same decoder with weights in bfloat16: autocast would round them in every call.

    Made once for weights as they are, and kept beside them until they change; a change through
    `weight.data`, which leaves no trace, is seen only after `decoder.twin = None`.
    """
    state = tuple(
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        for weight in decoder.parameters()
    )
    if decoder.twin is None or decoder.twin[0] != state:
        mlp = decoder.mlp
        if isinstance(mlp, ModulatedMLP):
            own: nn.Module = FoldedMLP(mlp, torch.bfloat16)
        else:
            own = copy.deepcopy(mlp).to(torch.bfloat16)
        other = copy.copy(decoder)
        other._modules = {**decoder._modules, "mlp": own}
        decoder.twin = (state, other)
    return decoder.twin[1]  # type: ignore[return-value]
