"""Fingerprints of crystals that no rotation changes, and how far two crystals are apart by them.

The fields of the elements in reciprocal space, h_a(g), make a spectrum for each pair of elements:
P_ab(k) = Σ_g Re h_a(g) h_b(g)* over the points g of a shell |g| ≈ k, the partial structure factors
that scattering knows (Faber and Ziman, Phil. Mag. 11, 153, 1965) without their normalisation. They
do not change with rotation and reflection, origin, order of the atoms or choice of the cell. So
two crystals are compared without matching atoms, cells or orientations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch
from nesf.data.packed import PackedSet
from nesf.geometry import reduce_lattice
from nesf.reciprocal import element_weights, field_coefficients, reciprocal_points

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from scipy.sparse import csr_array

FARTHEST = math.sqrt(2)  # the distance of crystals with nothing in common
_AT_ONCE = 256  # crystals, or rows of a table of distances
_POINTS_AT_ONCE = 2_000_000  # points times atoms of a batch of crystals, about


@dataclass(frozen=True)
class FingerprintOptions:
    """What a fingerprint looks at.

    Attributes:
        by: elements tells elements apart, by a spectrum for each pair; atoms takes all atoms for
            alike, one spectrum of the arrangement alone.
        sigma: of the Gaussians, Å: details much smaller than that do not count.
        reach: |g| of the outermost shell, Å⁻¹.
        shells: of equal width, each fading into the next.
    """

    by: Literal["elements", "atoms"] = "elements"
    sigma: float = 0.4
    reach: float = 8.0
    shells: int = 32

    def __post_init__(self) -> None:
        if self.by not in ("elements", "atoms"):
            raise ValueError(f"by must be elements or atoms, not {self.by}")
        for name in ("sigma", "reach"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.shells < 2:
            raise ValueError(f"shells must be at least 2, not {self.shells}")


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of M crystals.

    Attributes:
        spectra: (M, pairs · shells) sparse rows of norm 1; of a crystal without atoms or without a
            volume all 0.
        ids: of the crystals.
        options: how they were made.
    """

    spectra: csr_array
    ids: tuple[str, ...]
    options: FingerprintOptions

    def __len__(self) -> int:
        return len(self.ids)

    def distances(self, others: Fingerprints) -> Float[np.ndarray, "m k"]:
        """How far each of these crystals is from each of some others.

        Args:
            others: K fingerprints made with the same options.

        Returns:
            (M, K) from 0, the same crystal, to `FARTHEST`, nothing in common (less where spectra
            of different signs meet); NaN where a crystal has no fingerprint.
        """
        self._check(others)
        return np.concatenate([np.empty((0, len(others))), *self._tables(others)])

    def nearest(self, others: Fingerprints) -> tuple[list[int], Float[np.ndarray, " m"]]:
        """For each of these crystals the nearest of some others, and how far it is.

        Memory stays bounded: no table of all distances is held.

        Args:
            others: one fingerprint or more, made with the same options.

        Returns:
            M positions in `others`, -1 where a crystal has no fingerprint, and M distances, NaN
            there.
        """
        self._check(others)
        positions: list[int] = []
        found: list[np.ndarray] = []
        for table in self._tables(others):
            best = np.where(np.isnan(table), np.inf, table).argmin(1)
            least = table[np.arange(len(table)), best]
            positions += np.where(np.isnan(least), -1, best).tolist()
            found.append(least)
        return positions, np.concatenate([np.empty(0), *found])

    def _check(self, others: Fingerprints) -> None:
        if self.options != others.options:
            raise ValueError("fingerprints made with different options cannot be compared")
        if not len(others):
            raise ValueError("there are no fingerprints to compare with")

    def _tables(self, others: Fingerprints) -> Iterator[np.ndarray]:
        theirs = others.spectra.T.tocsc()
        missing = others.spectra.power(2).sum(1) == 0
        for begin in range(0, len(self), _AT_ONCE):
            mine = self.spectra[begin : begin + _AT_ONCE]
            table = (mine @ theirs).toarray()
            # of rows of norm 1: |a - b|² = 2 - 2 a·b
            table = np.sqrt(np.clip(2 - 2 * table, 0, None))
            table[mine.power(2).sum(1) == 0] = np.nan
            table[:, missing] = np.nan
            yield table


def fingerprints(
    crystals: CrystalBatch | PackedSet,
    options: FingerprintOptions = FingerprintOptions(),
) -> Fingerprints:
    """Fingerprints of crystals in any cell, some at a time.

    Args:
        crystals: M of them.
        options: what they look at.
    """
    from scipy.sparse import csr_array

    if isinstance(crystals, PackedSet):
        take: Callable[..., CrystalBatch] = crystals.tensors("cpu", torch.float64, ()).batch
        lattice = torch.as_tensor(np.array(crystals.lattice, dtype=np.float64))
        atoms = torch.as_tensor(crystals.num_atoms)
    else:
        take, lattice, atoms = crystals.select, crystals.lattice.double().cpu(), crystals.num_atoms
    rows, columns, values = [np.empty(0, int)], [np.empty(0, int)], [np.empty(0)]
    width = options.shells * (_pairs() if options.by == "elements" else 1)
    for index in _parts(lattice, atoms.cpu(), options):
        part = take(torch.tensor(index)).to(dtype=torch.float64)
        pairs, spectra = _spectra(part, options)
        size = np.sqrt((spectra**2).sum((1, 2), keepdims=True))
        spectra = np.divide(spectra, size, out=np.zeros_like(spectra), where=size > 0)
        crystal, pair = np.nonzero(np.abs(spectra).max(2) > 0)
        rows.append(np.repeat(np.asarray(index)[crystal], options.shells))
        first = pairs[crystal, pair] * options.shells
        columns.append((first[:, None] + np.arange(options.shells)).ravel())
        values.append(spectra[crystal, pair].ravel())
    where = (np.concatenate(rows), np.concatenate(columns))
    table = csr_array((np.concatenate(values), where), shape=(len(crystals), width))
    return Fingerprints(table, tuple(crystals.ids), options)


def nearest_training_crystals(
    crystals: Mapping[str, Structure],
    training: CrystalBatch | PackedSet,
    options: FingerprintOptions = FingerprintOptions(),
) -> dict[str, tuple[str, float] | None]:
    """The nearest training crystal of each crystal, and how far it is: how new is it?

    Args:
        crystals: by id.
        training: one crystal at least.
        options: what the fingerprints look at.

    Returns:
        For each crystal the id of the nearest and the distance; None where it has no atoms or no
        volume, or where no training crystal has both.
    """
    known = {id_: one for id_, one in crystals.items() if len(one)}
    found: dict[str, tuple[str, float] | None] = dict.fromkeys(crystals)
    if known:
        batch = CrystalBatch.from_structures(list(known.values()), list(known), torch.float64)
        theirs = fingerprints(training, options)
        places, distances = fingerprints(batch, options).nearest(theirs)
        for id_, place, distance in zip(known, places, distances.tolist(), strict=True):
            found[id_] = (theirs.ids[place], distance) if place >= 0 else None
    return found


def _pairs() -> int:
    return MAX_ATOMIC_NUMBER * (MAX_ATOMIC_NUMBER + 1) // 2


def _parts(
    lattice: Float[Tensor, "m 3 3"], atoms: Int[Tensor, " m"], options: FingerprintOptions
) -> Iterator[list[int]]:
    """Positions of crystals that are done together, large ones in small parts.

    Crystals without atoms or volume are left out.
    """
    volume = torch.linalg.det(lattice).abs()
    usable = (volume > 1e-3) & volume.isfinite() & (atoms > 0)
    # points in half the ball, times atoms
    points = volume * options.reach**3 / (12 * math.pi**2)
    work = (points.clamp_min(1) * atoms).tolist()
    order = sorted(usable.nonzero()[:, 0].tolist(), key=lambda i: work[i])
    part: list[int] = []
    for i in order:
        if part and (len(part) == _AT_ONCE or work[i] * (len(part) + 1) > _POINTS_AT_ONCE):
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def _spectra(
    crystals: CrystalBatch, options: FingerprintOptions
) -> tuple[Int[np.ndarray, "b p"], Float[np.ndarray, "b p k"]]:
    """The spectra of some crystals: (B, P) which pairs of elements, and (B, P, K) their spectra."""
    crystals = _reduced(crystals)
    width = options.reach / options.shells
    points = reciprocal_points(crystals.lattice, options.reach)
    elements, weights = element_weights(crystals)
    if options.by == "atoms":
        elements, weights = torch.ones_like(elements[:, :1]), weights.sum(1, keepdim=True)
    h = field_coefficients(crystals, points, weights, options.sigma)  # (B, C, G)
    first, second = torch.triu_indices(h.shape[1], h.shape[1])  # P pairs, a ≤ b
    # each shell is a hat around its middle; what is nearer than the first middle is all its own
    place = (points.vectors.norm(dim=-1) / width - 0.5).clamp_min(0.0)  # (B, G)
    below = place.floor()
    share = place - below
    shells = options.shells
    spectra = h.real.new_zeros(len(crystals), len(first), shells + 2)
    for pair, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        # both orders of two elements count, and both of g and -g
        power = (h[:, a] * h[:, b].conj()).real * points.multiplicity
        power = power if a == b else power * math.sqrt(2)
        spectra[:, pair].scatter_add_(1, below.long(), power * (1 - share))
        spectra[:, pair].scatter_add_(1, below.long() + 1, power * share)
    low, high = elements[:, first] - 1, elements[:, second] - 1
    number = high * (high + 1) // 2 + low  # of the pair, low ≤ high
    real = (low >= 0) & (high >= 0)
    spectra = torch.where(real.unsqueeze(-1), spectra[..., :shells], 0.0)
    return torch.where(real, number, 0).cpu().numpy(), spectra.cpu().numpy()


def _reduced(crystals: CrystalBatch) -> CrystalBatch:
    """The same crystals in reduced cells: in long, skew ones there are many indices to try."""
    lattice = reduce_lattice(crystals.lattice)
    change = (crystals.lattice @ torch.linalg.inv(lattice)).round()
    return crystals.replace(frac_coords=crystals.frac_coords @ change, lattice=lattice)
