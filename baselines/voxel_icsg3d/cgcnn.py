"""The property predictor: a crystal graph convolutional neural network.

Xie and Grossman, "Crystal graph convolutional neural networks for an accurate and interpretable
prediction of material properties", PRL 120, 145301 (2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.voxel_icsg3d.descriptors import element_features
from baselines.voxel_icsg3d.graphs import CrystalGraphs, GraphTensors, graph_tensors
from baselines.voxel_icsg3d.neighbourhood import GraphOptions, shell_weights
from baselines.voxel_icsg3d.property_network import PropertyNetwork
from nesf.crystal import MAX_ATOMIC_NUMBER
from nesf.data.packed import PackedSet

NEGLIGIBLE = 46.0  # exponent whose exponential, 1e-20, is taken for 0


class CGCNN(PropertyNetwork):
    """Properties of a crystal from the graph of its atoms: convolutions, mean over atoms, MLP.

    The defaults are the network of the voxel pipeline: one convolution of width 64. An element
    enters by a learned vector and by what the periodic table says of it (`element_features`).
    The answers do not depend on the order of the atoms or on the choice of the cell.

    Args:
        properties: names of what is predicted, P of them.
        width: numbers that describe an atom.
        num_convolutions: rounds in which atoms hear of their neighbours.
        hidden_width: of the layer behind the mean over atoms.
        radius: largest distance that is told apart, Å.
        radius_step: between the centres of the Gaussians that a distance is expanded in, and
            their width, Å.
        descriptors: whether elements are described besides their learned vector.
        graph: changes to `GraphOptions`.
    """

    name = "cgcnn"
    centres: Tensor
    elements: Tensor

    def __init__(
        self,
        properties: Sequence[str],
        width: int = 64,
        num_convolutions: int = 1,
        hidden_width: int = 128,
        radius: float = 8.0,
        radius_step: float = 0.2,
        descriptors: bool = True,
        graph: Mapping[str, Any] | None = None,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(properties, {**arguments, "graph": dict(graph or {})})
        _check(width, num_convolutions, hidden_width, radius, radius_step)
        self.graph_options = GraphOptions(**self.init_args["graph"])
        self.radius_step = radius_step
        # 41 of them at 8 and 0.2 Å
        count = round(radius / radius_step) + 1
        self.register_buffer("centres", torch.linspace(0.0, radius, count), persistent=False)
        features = F.pad(element_features(), (0, 0, 1, 0)).float()  # a row of zeros for padding
        self.register_buffer("elements", features if descriptors else features[:, :0])
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width, padding_idx=0)
        self.describe = nn.Linear(self.elements.shape[1], width) if descriptors else None
        self.convolutions = nn.ModuleList(
            GatedConvolution(width, count) for _ in range(num_convolutions)
        )
        self.hidden = nn.Linear(width, hidden_width)
        self.output = nn.Linear(hidden_width, len(properties))

    def tensors(
        self,
        crystals: PackedSet,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        properties: Sequence[str] = (),
        progress: bool = False,
    ) -> tuple[GraphTensors, dict[int, str]]:
        """A set of crystals with the neighbours of their atoms."""
        return graph_tensors(crystals, self.graph_options, device, dtype, properties, progress)

    def standardised(self, crystals: CrystalGraphs) -> Float[Tensor, "b p"]:
        """The properties as the network tells them: from `target_mean`, in `target_scale`."""
        edges = Edges.of(crystals, self.graph_options)
        atoms = self._describe(crystals.atomic_numbers[crystals.mask])  # (A, F)
        expanded = self._expand(edges.distances)
        for convolution in self.convolutions:
            atoms = convolution(atoms, edges, expanded)
        # (A, F) -> (B, F)
        crystal = crystals.mask.nonzero()[:, 0]
        total = atoms.new_zeros(len(crystals), atoms.shape[1]).index_add(0, crystal, atoms)
        mean = total / crystals.num_atoms.clamp_min(1).unsqueeze(-1)
        return self.output(F.softplus(self.hidden(F.softplus(mean))))

    def _describe(self, atomic_numbers: Int[Tensor, " a"]) -> Float[Tensor, "a f"]:
        """What is known of atoms before they hear of each other."""
        learned = self.embedding(atomic_numbers)
        if self.describe is None:
            return learned
        return learned + self.describe(self.elements[atomic_numbers])

    def _expand(self, distances: Float[Tensor, " e"]) -> Float[Tensor, "e g"]:
        """Distances as Gaussians around the centres, eq. (2) of the article's supplement."""
        exponent = ((distances.unsqueeze(-1) - self.centres) / self.radius_step).square()
        # a processor is slow at numbers that are too small for its usual format
        gaussians = torch.exp(-exponent.clamp_max(NEGLIGIBLE))
        return torch.where(exponent < NEGLIGIBLE, gaussians, 0.0)


@dataclass(frozen=True)
class Edges:
    """The E pairs of neighbours in a batch whose A atoms are counted through, without padding.

    Attributes:
        atoms: (E,) which atom.
        others: (E,) which neighbour.
        distances: (E,) Å.
        weights: (E,) how much the neighbour counts.
    """

    atoms: Int[Tensor, " e"]
    others: Int[Tensor, " e"]
    distances: Float[Tensor, " e"]
    weights: Float[Tensor, " e"]

    @staticmethod
    def of(crystals: CrystalGraphs, options: GraphOptions) -> Edges:
        """The pairs of a padded batch."""
        real = crystals.edge_mask
        weights = shell_weights(crystals.distances, real, options)
        # (B, N): the number of each atom among all real ones
        number = (crystals.mask.flatten().cumsum(0) - 1).view(crystals.mask.shape)
        crystal, atom, _ = real.nonzero(as_tuple=True)
        return Edges(
            atoms=number[crystal, atom],
            others=number[crystal, crystals.neighbours[real]],
            distances=crystals.distances[real],
            weights=weights[real],
        )


class GatedConvolution(nn.Module):
    """Atoms hear of their neighbours through a learned gate.

    v_i <- g(v_i + BN(sum_j w_ij σ(BN(z_ij W_f + b_f)) * g(BN(z_ij W_s + b_s)))), with z_ij = v_i,
    v_j and the expanded distance u_ij joined, and g the softplus: eq. (5) of the article, with its
    authors' places for batch normalisation and the outer g. The product with W is taken of the
    three parts of z_ij one by one, which gives the same and multiplies each atom once.

    Args:
        width: F, numbers that describe an atom.
        edge_width: G, numbers that describe a distance.
    """

    def __init__(self, width: int, edge_width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, 2 * width)
        self.other = nn.Linear(width, 2 * width, bias=False)
        self.edge = nn.Linear(edge_width, 2 * width, bias=False)
        self.edge_norm = WeightedBatchNorm(2 * width)
        self.atom_norm = WeightedBatchNorm(width)

    def forward(
        self, atoms: Float[Tensor, "a f"], edges: Edges, expanded: Float[Tensor, "e g"]
    ) -> Float[Tensor, "a f"]:
        """The atoms after one round.

        Args:
            atoms: (A, F) what is known of them.
            edges: their neighbours.
            expanded: (E, G) the distances.
        """
        # (E, 2F)
        joined = self.own(atoms)[edges.atoms] + self.other(atoms)[edges.others]
        joined = joined + self.edge(expanded)
        gate, core = self.edge_norm(joined, edges.weights).chunk(2, dim=-1)
        messages = torch.sigmoid(gate) * F.softplus(core) * edges.weights.unsqueeze(-1)
        heard = torch.zeros_like(atoms).index_add(0, edges.atoms, messages.to(atoms.dtype))
        return F.softplus(atoms + self.atom_norm(heard, torch.ones_like(heard[:, 0])))


class WeightedBatchNorm(nn.Module):
    """Batch normalisation in which entries count by their weight.

    With weights of 1 it is `nn.BatchNorm1d`. Each process of a distributed training has its own
    statistics, as there.

    Args:
        width: C, channels.
        eps: added to the variance.
        momentum: share of the batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(
        self, values: Float[Tensor, "m c"], weights: Float[Tensor, " m"]
    ) -> Float[Tensor, "m c"]:
        """Normalise every entry.

        Args:
            values: (M, C) entries.
            weights: (M,) how much each counts in the statistics, 0 or more.
        """
        values = values.to(self.weight.dtype)  # statistics of bfloat16 entries would be poor
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = self._statistics(values, weights.to(values.dtype).unsqueeze(-1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return values * scale + (self.bias - mean * scale)

    def _statistics(self, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of a batch; they go into the running ones, too."""
        total = weights.sum().clamp_min(1e-6)
        mean = (weights * values).sum(0) / total
        variance = (weights * (values - mean).square()).sum(0) / total
        with torch.no_grad():
            unbiased = variance * total / (total - 1).clamp_min(1.0)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return mean, variance


def _check(
    width: int, num_convolutions: int, hidden_width: int, radius: float, radius_step: float
) -> None:
    for name, value in (("width", width), ("hidden_width", hidden_width)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if num_convolutions < 0:
        raise ValueError(f"num_convolutions must not be negative, not {num_convolutions}")
    if not 0 < radius_step <= radius < math.inf:
        raise ValueError(f"radius_step must be above 0 and at most radius, not {radius_step}")
