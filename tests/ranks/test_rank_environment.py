"""Which of how many processes this one is, and how long it waits for the others."""

from __future__ import annotations

import pytest
from rank_runs import srun, torchrun

from nesf.errors import InputError
from nesf.ranks.environment import PATIENCE, Patience, Ranks, ranks_here


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Ranks()),
        (torchrun(3, 8) | {"LOCAL_WORLD_SIZE": "4"}, Ranks(3, 8, 3, 4)),
        (srun(1, 2), Ranks(1, 2, 1)),
        (torchrun(0, 2) | srun(5, 9), Ranks(0, 2, 0)),  # torchrun within srun
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, Ranks()),  # sbatch
        ({"LOCAL_RANK": "1"}, Ranks()),
    ],
)
def test_the_environment_says_which_rank_this_is(environment, expected):
    assert ranks_here(environment) == expected


@pytest.mark.parametrize("environment", [torchrun(2, 2), torchrun(0, 2) | {"RANK": "first"}])
def test_an_environment_that_makes_no_sense_is_refused(environment):
    with pytest.raises(InputError, match="environment"):
        ranks_here(environment)


def test_shares_of_cores_and_devices(monkeypatch):
    assert Ranks(0, 8, 0, 10**6).workers(None) == 1
    assert Ranks(0, 8, 0, 4).workers(3) == 3
    assert Ranks().workers(None) is None
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [Ranks(r, 4, r).device("auto") for r in range(4)] == ["cuda:0", "cuda:1"] * 2
    assert Ranks(1, 4, 1).device("cpu") == "cpu"
    assert Ranks().device("auto") == "auto"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert Ranks(1, 4, 1).device("auto") == "cpu"


def test_patience_is_a_positive_number(monkeypatch):
    monkeypatch.setenv(PATIENCE, "2.5")
    assert (Patience.from_environment().silent_s, Patience.from_environment().absent_s) == (2.5, 25)
    for text in ("0", "-1", "soon", "nan"):
        monkeypatch.setenv(PATIENCE, text)
        with pytest.raises(InputError, match=PATIENCE):
            Patience.from_environment()
