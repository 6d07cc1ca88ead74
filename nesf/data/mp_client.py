"""What is asked of the Materials Project, and how: query, key, client, tries."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from nesf.errors import InputError, NesfError

KEY_VARIABLES = ("PMG_MAPI_KEY", "MP_API_KEY")
_TRIES = 4
_REFUSED = ("status code 401", "status code 403")


@runtime_checkable
class Client(Protocol):
    """What is used of pymatgen's `MPRester`."""

    def summary_search(self, **criteria: Any) -> list[dict[str, Any]]:
        """Summary documents that meet the criteria, with the fields named in `_fields`."""
        ...


@dataclass(frozen=True)
class Query:
    """Which crystals to fetch, and in which cell.

    Attributes:
        criteria: filters of the Materials Project's summary endpoint.
        conventional: take the conventional standard cell instead of the primitive one.
        max_atoms: largest number of atoms in that cell.
        max_length: largest length of its edges, Å.
    """

    criteria: Mapping[str, str | float | bool] = field(default_factory=dict)
    conventional: bool = True
    max_atoms: int | None = None
    max_length: float | None = None

    @staticmethod
    def icsg3d() -> Query:
        """Cubic AB, ABX2 and ABX3 of at most 40 atoms, as in ICSG3D (Court et al., 2020)."""
        return Query({"crystal_system": "Cubic", "formula": "AB,ABC2,ABC3"}, max_atoms=40)

    @staticmethod
    def lcs6() -> Query:
        """Conventional cells with a, b, c of at most 6 Å, as in LCS6Å (Chiba et al., 2023)."""
        # no primitive cell is larger than its conventional one
        return Query({"volume_max": 6.0**3}, max_length=6.0)

    @staticmethod
    def matching(
        formula: str | None = None,
        chemical_system: str | None = None,
        conventional: bool = True,
        max_atoms: int | None = None,
    ) -> Query:
        """Any formula (`Fe2O3`, anonymous `ABC3`, several by comma) or chemical system (`Fe-O`).

        Raises:
            InputError: neither is given, or both.
        """
        if (formula is None) == (chemical_system is None):
            raise InputError("give a formula or a chemical system to fetch, one of the two")
        criteria = {"formula": formula} if formula else {"chemsys": str(chemical_system)}
        return Query(criteria, conventional, max_atoms)


def api_key() -> str:
    """The key for the Materials Project, from the environment only.

    Raises:
        InputError: there is none.
    """
    for name in KEY_VARIABLES:
        if key := os.environ.get(name, "").strip():
            return key
    raise InputError(
        "no key for the Materials Project: set the environment variable "
        f"{' or '.join(KEY_VARIABLES)} to the one that https://materialsproject.org/api shows you"
    )


def open_client(key: str) -> Client:
    """Pymatgen's client.

    Raises:
        InputError: the key has the wrong form.
    """
    from pymatgen.ext.matproj import MPRester

    try:
        return MPRester(key)
    except ValueError:
        # the cause is left out: its text is pymatgen's, and may come to hold the key
        raise InputError(
            f"the key in {' or '.join(KEY_VARIABLES)} is not one of the Materials Project "
            "(32 characters); see https://materialsproject.org/api"
        ) from None


@dataclass(frozen=True)
class Asker:
    """Searches, tried again while the network or the server fails.

    Attributes:
        client: who is asked.
        key: kept out of every message.
        pause_s: before the second try, s; doubled before each further one.
    """

    client: Client
    key: str = field(repr=False)
    pause_s: float

    def search(self, state: str, **criteria: Any) -> list[dict[str, Any]]:
        """Summary documents.

        Args:
            state: what is there already, for the message.
            criteria: of the search.

        Raises:
            InputError: the key is refused.
            NesfError: no answer after several tries.
        """
        from pymatgen.ext.matproj import MPRestError

        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(self.pause_s * 2 ** (attempt - 1))
            try:
                return self.client.summary_search(**criteria)
            except (MPRestError, OSError, ValueError) as error:
                text = " ".join(str(error).split()) or type(error).__name__
                reason = text.replace(self.key, "***") if self.key else text
            if any(sign in reason for sign in _REFUSED):
                raise InputError(
                    f"the Materials Project refused the key in {' or '.join(KEY_VARIABLES)}; "
                    "see https://materialsproject.org/api"
                )
        # raised outside of the handler: the cause may hold the key
        raise NesfError(
            f"the Materials Project did not answer after {_TRIES} tries ({reason[:300]}); "
            f"{state}, run the same command again to go on"
        )
