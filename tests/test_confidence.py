"""Confidence: certain where fields are exact, and lost by any one thing that speaks against."""

import dataclasses
import math

import pytest
import torch
from crystals import random_crystals
from hypothesis import given
from hypothesis import strategies as st

from nesf.crystal import CrystalBatch
from nesf.exact import exact_fields
from nesf.reconstruction.confidence import BLURRED, Evidence, confidence_of, species_evidence
from nesf.reconstruction.reconstruct import reconstruct

MASK = torch.tensor([[True, True, False], [False, False, False]])


def product(spread=0.0, share=0.5, clear=2, species=0.0, claimed=2, steady_third=0.0):
    """Confidence of a crystal of two sites, beside one without any."""
    spreads = torch.tensor([[spread, 0.0, steady_third], [0.0, 0.0, 0.0]])
    shares = torch.tensor([[share, share, 0.0], [0.0, 0.0, 0.0]])
    evidence = Evidence(torch.tensor([clear, 0]), torch.tensor([species, 0.0]))
    claim = None if claimed is None else torch.tensor([claimed, 0])
    found = confidence_of(spreads, shares, MASK, evidence, claim, 0.25)
    assert found[1] == 0
    return float(found[0])


def test_each_share_counts_by_itself():
    assert product() == 1
    assert product(share=0.3) == pytest.approx(0.6)
    assert product(species=math.log(0.7)) == pytest.approx(0.7)
    assert product(species=-math.inf) == 0
    assert product(clear=3) == product(clear=2, claimed=3) == pytest.approx(2 / 3)
    assert product(clear=9, claimed=None) == 1
    # one of two sites is blurred: mean sharpness 0.8, and the worst alone takes 1 - 1/e
    assert product(spread=BLURRED) == pytest.approx((1 - BLURRED / 0.5) / math.e)
    assert product(steady_third=9.0) == 1  # padding is no site


@given(st.floats(0, 1), st.floats(0, 0.6), st.floats(-20, 0), st.integers(0, 5))
def test_it_is_in_range_and_falls_with_the_scatter(spread, share, species, clear):
    one = product(spread, share, clear, species)
    assert 0 <= one <= 1
    assert product(spread + 0.01, share, clear, species) <= one + 1e-7


def test_an_unsure_species_costs_what_the_field_says():
    crystals = random_crystals(3, dtype=torch.float32).select([0])
    exact = exact_fields(crystals)

    def fields_of(number):
        """The true class beside `number` others of the same logit."""

        def species(query):
            logits = exact.species(query)
            others = logits.roll(1, -1) if number else logits
            return torch.maximum(logits, others)

        return dataclasses.replace(exact, species=species, subset=lambda index: fields_of(number))

    sites = crystals.cart_coords[0][crystals.mask[0]]
    owner = torch.zeros(len(sites), dtype=torch.long)
    true = crystals.species[0][crystals.mask[0]]
    for number in (0, 1):
        told = species_evidence(fields_of(number), sites, owner, true)
        expected = -len(sites) * math.log(number + 1)
        assert told.tolist() == pytest.approx([expected], abs=1e-4)
    nothing = species_evidence(exact, sites[:0], owner[:0], true[:0])
    assert nothing.tolist() == [0]


def test_exact_fields_are_certain():
    frac = torch.tensor([[0.3, 0.3, 0.3], [0.8, 0.8, 0.8]])
    numbers, lattice = torch.tensor([55, 17]), torch.eye(3)[None] * 4.0
    crystals = CrystalBatch.from_flat(frac, numbers, torch.tensor([2]), lattice, "a")
    assert reconstruct(exact_fields(crystals)).confidence.tolist() == pytest.approx([1], abs=1e-4)
