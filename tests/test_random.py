"""Generators keyed by what the numbers are for."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nesf.random import generator_for

KEYS = st.tuples(st.integers(0, 2**40), st.sampled_from(["step", "validation"]), st.integers(0, 99))


def numbers(seed: int, *key: int | str) -> torch.Tensor:
    return torch.rand(8, generator=generator_for(seed, *key))


@settings(max_examples=50, deadline=None)
@given(first=KEYS, second=KEYS)
def test_equal_keys_and_only_equal_keys_repeat(first, second):
    assert torch.equal(numbers(*first), numbers(*first))
    assert torch.equal(numbers(*first), numbers(*second)) == (first == second)


def test_neighbouring_keys_have_nothing_in_common():
    draws = torch.stack([torch.rand(500, generator=generator_for(0, "step", i)) for i in range(40)])
    off_diagonal = torch.corrcoef(draws) - torch.eye(40)
    assert off_diagonal.abs().max() < 0.25
    assert abs(draws.mean() - 0.5) < 0.01


def test_parts_of_a_key_do_not_run_together():
    assert not torch.equal(numbers(0, 1, 23), numbers(0, 12, 3))
    assert not torch.equal(numbers(1, "a"), numbers(11, "a"))


def test_the_stream_is_the_same_in_every_process_and_version():
    # resumed runs of an older version must go on alike
    assert generator_for(0, "step", 0).initial_seed() == 2070556943451723277


def test_global_randomness_is_left_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    numbers(0, "step", 1)
    assert torch.equal(torch.get_rng_state(), state)
