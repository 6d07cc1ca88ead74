"""Which of N processes this one is, as torchrun or SLURM's srun tells it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from nesf.errors import InputError, NesfError

# torchrun's names first: it may itself have been started by srun, once a machine
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
PATIENCE = "NESF_RANK_PATIENCE_S"  # an environment variable: `Patience.silent_s`


class LostLeader(NesfError):
    """Rank 0, which speaks for all, is gone."""


class Terminated(NesfError):
    """The process was asked to end (SIGTERM), by a user, a scheduler or torchrun."""


@dataclass(frozen=True)
class Ranks:
    """One of N processes that were started together.

    Attributes:
        rank: its number, from 0.
        size: N.
        local_rank: its number among those of its machine.
        local_size: how many of them share its cores.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or self.local_rank < 0 or self.local_size < 1:
            raise InputError(
                f"the environment names rank {self.rank} of {self.size} (local rank "
                f"{self.local_rank}); start all processes with one torchrun or srun"
            )

    @property
    def speaks(self) -> bool:
        """Whether it prints and shows progress for all."""
        return self.rank == 0

    @property
    def part(self) -> slice:
        """Its share of anything in order: every N-th."""
        return slice(self.rank, None, self.size)

    def device(self, name: str) -> str:
        """A GPU of its own for `auto`, where the machine has some; else the name as it is."""
        if name != "auto" or self.size == 1:
            return name
        import torch

        count = torch.cuda.device_count()
        return f"cuda:{self.local_rank % count}" if count else "cpu"

    def workers(self, asked: int | None) -> int | None:
        """Worker processes of this rank: as asked, or its share of the cores it may use."""
        if asked is not None or self.local_size == 1:
            return asked
        from nesf.data.records import ReadOptions

        return max(1, ReadOptions().num_workers // self.local_size)


@dataclass(frozen=True)
class Patience:
    """How long ranks wait for each other.

    Attributes:
        silent_s: a rank whose note has not changed for so long is lost, s. Network file systems
            may show a change half a minute late.
        absent_s: time to begin in, s: ranks start one after another on a busy machine.
        stuck_s: a rank that has not come a crystal further for so long counts as lost, s.
    """

    silent_s: float = 60.0
    absent_s: float = 600.0
    stuck_s: float = 6 * 3600.0

    @staticmethod
    def from_environment() -> Patience:
        """The defaults, or `NESF_RANK_PATIENCE_S` and ten times that to begin in.

        Raises:
            InputError: the variable is no positive number.
        """
        text = os.environ.get(PATIENCE)
        if text is None:
            return Patience()
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not seconds > 0:
            raise InputError(f"{PATIENCE} is {text!r}; give a number of seconds above 0")
        return Patience(seconds, 10 * seconds)

    @property
    def interval_s(self) -> float:
        """Time from one change of a note to the next, and from one look to the next."""
        return self.silent_s / 20


def ranks_here(environ: Mapping[str, str] | None = None) -> Ranks:
    """Read RANK, WORLD_SIZE, LOCAL_RANK, or SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID.

    SLURM's variables count only within a step that srun started: a batch script itself sees them,
    too, and is one process.

    Args:
        environ: the environment; that of this process if None.

    Returns:
        The rank; 0 of 1 where nothing is said.

    Raises:
        InputError: the variables contradict each other or are no numbers.
    """
    environ = os.environ if environ is None else environ
    if "RANK" in environ and "WORLD_SIZE" in environ:
        rank, size, local_rank = (_number(environ, name) for name in _TORCHRUN)
        return Ranks(rank, size, local_rank, _number(environ, "LOCAL_WORLD_SIZE", 1))
    if "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ:
        rank, size, local_rank = (_number(environ, name) for name in _SLURM)
        # srun binds every task to cores of its own
        return Ranks(rank, _number(environ, "SLURM_STEP_NUM_TASKS", size), local_rank)
    return Ranks()


def _number(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    text = environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(f"the environment variable {name} is {text!r}; it must be a number")
    return int(text)
