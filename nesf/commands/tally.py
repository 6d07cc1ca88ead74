"""What became of the crystals of one command, and how the user is told."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from nesf.data.beside import list_rejected
from nesf.data.records import Rejected

SHOWN = 5  # rejected rows that are told on the screen
TOLERANCE = 0.03  # Å, of `nesf.scoring.count_faults`, without importing torch


@dataclass
class Tally:
    """What became of the crystals of one command.

    Attributes:
        verb: what was done to them, for the summary.
        done: crystals that went well.
        skipped: crystals that were in the output already.
        rejected: the others.
        faulty: of those that went well, how many are not the crystals that were given; known only
            where these are.
    """

    verb: str
    done: int = 0
    skipped: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    faulty: int = 0

    @property
    def seen(self) -> int:
        """Crystals of which it is known what became of them."""
        return self.done + self.skipped + len(self.rejected)

    def finish(self, output: str | Path) -> int:
        """List what was rejected, print the counts, and give the exit code."""
        path = list_rejected(output, self.rejected)
        before = f" ({self.skipped} were there already)" if self.skipped else ""
        faulty = ""
        if self.faulty:
            listed = Path(output) / "index.csv" if Path(output).is_dir() else output
            faulty = f", {self.faulty} of them not within {TOLERANCE} Å (faults in {listed})"
        print(f"{self.done} {self.verb}{before}{faulty}, {len(self.rejected)} rejected: {output}")
        for one in self.rejected[:SHOWN]:
            row = "" if one.row is None else f", row {one.row}"
            print(f"rejected: {one.source}{row}: {one.reason}", file=sys.stderr)
        if path is not None:
            print(f"{len(self.rejected)} rejected rows are listed in {path}", file=sys.stderr)
        return 1 if self.rejected else 0
