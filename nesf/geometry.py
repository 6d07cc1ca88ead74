"""Lattices and coordinates: fractional and Cartesian, cell parameters, nearest periodic images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def frac_to_cart(
    frac_coords: Float[Tensor, "*b n 3"], lattice: Float[Tensor, "*b 3 3"]
) -> Float[Tensor, "*b n 3"]:
    """Fractional to Cartesian coordinates (Å); `lattice` rows are the cell vectors."""
    # not a matrix product, which autocast would round to bfloat16
    return (frac_coords.unsqueeze(-1) * lattice.unsqueeze(-3)).sum(-2)


def cart_to_frac(
    cart_coords: Float[Tensor, "*b n 3"], lattice: Float[Tensor, "*b 3 3"]
) -> Float[Tensor, "*b n 3"]:
    """Cartesian (Å) to fractional coordinates, not wrapped into the cell."""
    exact = lattice.to(torch.promote_types(lattice.dtype, torch.float32))  # inv knows no half
    return frac_to_cart(cart_coords, torch.linalg.inv(exact).to(lattice.dtype))


def wrap_frac(frac_coords: Float[Tensor, "*n 3"], margin: float = 0.0) -> Float[Tensor, "*n 3"]:
    """Wrap fractional coordinates into [-margin, 1 - margin).

    A small margin keeps atoms that jitter around a cell face on one side of the cell, so that
    in-cell fields stay continuous in the atom's coordinates.
    """
    shifted = frac_coords + margin
    wrapped = shifted - shifted.floor()
    # -1e-9 rounds up to 1.0 in float32
    return torch.where(wrapped >= 1.0, 0.0, wrapped) - margin


def lattice_to_parameters(
    lattice: Float[Tensor, "*b 3 3"],
) -> tuple[Float[Tensor, "*b 3"], Float[Tensor, "*b 3"]]:
    """Cell vectors to lengths (Å) and angles alpha, beta, gamma (radians)."""
    lengths = lattice.norm(dim=-1)
    unit = lattice / lengths.unsqueeze(-1).clamp_min(1e-12)
    a, b, c = unit.unbind(-2)
    cosines = torch.stack([(b * c).sum(-1), (a * c).sum(-1), (a * b).sum(-1)], dim=-1)
    return lengths, torch.arccos(cosines.clamp(-1.0, 1.0))


def parameters_to_lattice(
    lengths: Float[Tensor, "*b 3"], angles: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b 3 3"]:
    """Lengths (Å) and angles (radians) to cell vectors in the standard orientation.

    c lies along z and a in the xz plane, as in `pymatgen.core.Lattice.from_parameters` and the
    CIF files that it writes. Angles that close no cell are brought to the nearest flat-but-valid
    one by clamping, so that a poor prediction never yields NaN.
    """
    # at 0 and 180 degrees the formula divides by zero
    angles = angles.clamp(1e-3, math.pi - 1e-3)
    cos_alpha, cos_beta, cos_gamma = angles.cos().unbind(-1)
    sin_alpha, sin_beta = angles[..., 0].sin(), angles[..., 1].sin()
    value = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    cos_star = value.clamp(-1.0 + 1e-7, 1.0 - 1e-7)
    sin_star = (1.0 - cos_star**2).sqrt()
    zero = torch.zeros_like(cos_alpha)
    a, b, c = lengths.unbind(-1)
    rows = (
        torch.stack([a * sin_beta, zero, a * cos_beta], dim=-1),
        torch.stack([-b * sin_alpha * cos_star, b * sin_alpha * sin_star, b * cos_alpha], dim=-1),
        torch.stack([zero, zero, c], dim=-1),
    )
    return torch.stack(rows, dim=-2)


def plane_spacings(lattice: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """Distances (Å) between opposite faces of the cell; 0 for a flat cell."""
    a, b, c = lattice.unbind(-2)
    normals = torch.stack(
        [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=-2
    )
    volume = torch.linalg.det(lattice).abs()
    return volume.unsqueeze(-1) / normals.norm(dim=-1).clamp_min(1e-12)


def standard_orientation(lattice: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """The same cell (lengths and angles) turned into the orientation of `parameters_to_lattice`.

    A left-handed cell comes back as its right-handed mirror image, in which fractional coordinates
    keep their distances and lose their hand (`nesf.crystal.standardised` keeps it).
    """
    return parameters_to_lattice(*lattice_to_parameters(lattice))


# The 7 pairs of vectors that can bound a Voronoi cell: partial sums of a superbase b0..b3
_SINGLE = ((0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 0))
_VORONOI = (*_SINGLE, (0, 1, 1, 0), (0, 1, 0, 1), (0, 0, 1, 1))
_MAX_REDUCTION_STEPS = 200  # sound cells need some tens at most; NaN and flat ones must stop too


def _pairwise_reduce(base: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3 3"]:
    """Shorten each vector by whole multiples of one other (Gauss), the largest gain first."""
    rows = torch.arange(len(base), device=base.device)
    own = torch.eye(3, dtype=torch.bool, device=base.device)
    for _ in range(_MAX_REDUCTION_STEPS):
        products = base @ base.mT  # (B, 3, 3), [i, j] = b_i · b_j
        squares = products.diagonal(dim1=1, dim2=2).unsqueeze(-1)  # (B, 3, 1)
        whole = (products / squares).round().masked_fill(own, 0.0)
        # |b_j|² - |b_j - m b_i|²
        gain = (2 * whole * products - whole.square() * squares).flatten(1)
        largest, pair = gain.max(dim=-1)
        shrinks = largest > 1e-10 * squares.amax(dim=(1, 2))
        if not bool(shrinks.any()):
            break
        first, second = pair // 3, pair % 3
        multiple = torch.where(shrinks, whole[rows, first, second], 0.0)
        base = base.clone()
        base[rows, second] -= multiple.unsqueeze(-1) * base[rows, first]
    return base


def reduce_lattice(lattice: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3 3"]:
    """The same point lattices spanned by their three shortest independent vectors.

    Selling's reduction of all cells at once: while two vectors of the superbase (the cell vectors
    and minus their sum) enclose an acute angle, reflect one of them. The obtuse superbase that
    this ends in gives the Voronoi-relevant vectors as its partial sums, and the shortest three
    of those that span a volume are a Minkowski-reduced basis (Conway and Sloane, "Low-dimensional
    lattices VI", Proc. R. Soc. Lond. A 436, 55, 1992).

    Args:
        lattice: (B, 3, 3) cell vectors as rows, Å.

    Returns:
        (B, 3, 3) reduced cell vectors, shortest first, in the orientation given, Å.
    """
    base = _pairwise_reduce(lattice.double())
    base = torch.cat([-base.sum(dim=1, keepdim=True), base], dim=1)  # (B, 4, 3)
    tolerance = 1e-10 * base.square().sum(dim=-1).amax(dim=-1)
    upper = torch.triu(torch.ones(4, 4, dtype=torch.bool, device=lattice.device), diagonal=1)
    rows = torch.arange(len(base), device=lattice.device)
    for _ in range(_MAX_REDUCTION_STEPS):
        products = (base @ base.mT).masked_fill(~upper, -math.inf).flatten(1)  # (B, 16)
        largest, pair = products.max(dim=-1)
        acute = largest > tolerance
        if not bool(acute.any()):
            break
        first, second = pair // 4, pair % 4
        # b_i -> -b_i, b_j stays, the other two gain b_i: the sum stays zero
        factor = torch.ones_like(base[..., :1])
        factor[rows, first] = -2.0
        factor[rows, second] = 0.0
        step = base[rows, first].unsqueeze(1)  # (B, 1, 3)
        base = torch.where(acute.view(-1, 1, 1), base + factor * step, base)
    sums = torch.tensor(_VORONOI, dtype=base.dtype, device=base.device) @ base  # (B, 7, 3)
    order = sums.norm(dim=-1).argsort(dim=-1, stable=True)
    sums = sums.gather(1, order.unsqueeze(-1).expand_as(sums))
    normal = torch.linalg.cross(sums[:, :1], sums[:, 1:2])
    volumes = (normal * sums[:, 2:]).sum(-1).abs()  # (B, 5): each is 0 or the cell's volume
    volume = torch.linalg.det(lattice.double()).abs().unsqueeze(-1)
    third = 2 + (volumes > 0.5 * volume).int().argmax(-1)
    return torch.stack([sums[:, 0], sums[:, 1], sums[rows, third]], dim=1).to(lattice.dtype)


@dataclass(frozen=True)
class NearestImage:
    """Finds the shortest of all periodic images of a vector, in any cell.

    In a Minkowski-reduced basis the shortest image of a vector with fractions in [-1/2, 1/2] is
    that vector shifted by -1, 0 or 1 along each axis. Of these 27 shifts n only those with
    |n|² < sum_i |n · b_i| can shorten any such vector (the minimum of |d + n|² - |d|² over that
    cube): none but 0 in an orthogonal cell.

    Attributes:
        lattice: (B, 3, 3) reduced cell vectors, Å.
        inverse: (B, 3, 3) their inverse: Cartesian coordinates @ inverse are fractions.
        shifts: (B, K, 3) lattice vectors to try, Å, the zero vector first and as padding.
        safe_radius: (B,) a vector this short with fractions in [-1/2, 1/2] is the shortest, Å.
    """

    lattice: Float[Tensor, "b 3 3"]
    inverse: Float[Tensor, "b 3 3"]
    shifts: Float[Tensor, "b k 3"]
    safe_radius: Float[Tensor, " b"]

    @staticmethod
    def of(lattice: Float[Tensor, "b 3 3"]) -> NearestImage:
        """Prepare the search for B cells; cells must have a volume."""
        reduced = reduce_lattice(lattice.double())
        steps = torch.arange(-1, 2, dtype=reduced.dtype, device=reduced.device)
        whole = torch.cartesian_prod(steps, steps, steps)  # (27, 3)
        shifts = whole @ reduced  # (B, 27, 3)
        reach = (shifts @ reduced.mT).abs().sum(-1)  # (B, 27)
        # shifts that gain no more than rounding are of no use
        useful = shifts.square().sum(-1) < reach * (1 - 1e-9)
        useful[:, len(whole) // 2] = False  # the zero shift is put first below
        count = int(useful.sum(-1).max()) if len(useful) else 0
        order = useful.int().argsort(dim=-1, descending=True, stable=True)[:, :count]
        useful = useful.gather(1, order)
        shifts = shifts.gather(1, order.unsqueeze(-1).expand(-1, -1, 3)) * useful.unsqueeze(-1)
        shifts = torch.cat([shifts.new_zeros(len(shifts), 1, 3), shifts], dim=1)
        return NearestImage(
            lattice=reduced.to(lattice.dtype),
            inverse=torch.linalg.inv(reduced).to(lattice.dtype),
            shifts=shifts.to(lattice.dtype),
            safe_radius=(plane_spacings(reduced).amin(-1) / 2).to(lattice.dtype),
        )

    def select(self, index: Int[Tensor, " k"]) -> NearestImage:
        """The search for some of the cells, or for one cell several times."""
        return NearestImage(
            self.lattice[index], self.inverse[index], self.shifts[index], self.safe_radius[index]
        )

    def roughly(self, delta: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Images of vectors (Å) with fractions in [-1/2, 1/2]: short, not always the shortest."""
        return delta - (delta @ self.inverse).round() @ self.lattice

    def __call__(self, delta: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """The shortest periodic image of each vector, Å."""
        delta = self.roughly(delta)
        if self.shifts.shape[1] == 1:
            return delta
        # |d + s|² - |d|² = 2 d·s + |s|²: (B, N, K)
        gain = 2 * delta @ self.shifts.mT + self.shifts.square().sum(-1).unsqueeze(1)
        best = gain.argmin(dim=-1)  # (B, N)
        return delta + self.shifts.gather(1, best.unsqueeze(-1).expand(-1, -1, 3))

    def flat(self, delta: Float[Tensor, "n 3"], cell: Int[Tensor, " n"]) -> Float[Tensor, "n 3"]:
        """The shortest image of each vector (Å), each in the cell of its own index."""
        return self.select(cell)(delta.unsqueeze(1)).squeeze(1)
