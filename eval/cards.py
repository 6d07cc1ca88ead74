"""Crystals in the report: which ones to show, their cards, and what the 3-D view draws."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from eval import elements
from eval.cells import Cell, fault
from eval.metrics import standard_cart_coords
from eval.scores import MATCH_METRICS, METRICS
from eval.strip import with_face_images
from eval.table import ENCODER_ALONE, LATENTS_REFINED, format_value

if TYPE_CHECKING:
    from pymatgen.core import Structure

_PAIR_SCORES = ("position_error_actual", "species_error_actual", "length_mae", "match_rmse")


@dataclass(frozen=True)
class CrystalPair:
    """A true and a reconstructed crystal to be drawn side by side.

    Attributes:
        id: the crystal's id.
        true: the reference.
        reconstructed: the prediction; None where there is none.
        scores: its row of `eval.evaluate.evaluate`'s "rows".
        case: why it is shown: "worst", "median", "random", ...
        nearest: the nearest training crystal's id, and how far its fingerprint is.
        encoder_alone: what the encoder's latent gives, where `reconstructed` is of a refined one.
        encoder_scores: the row of that; empty where no latents were refined.
    """

    id: str
    true: Structure
    reconstructed: Structure | None
    scores: Mapping[str, Any] = field(default_factory=dict)
    case: str = ""
    nearest: tuple[str, float] | None = None
    encoder_alone: Structure | None = None
    encoder_scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sides(self) -> dict[str, Structure | None]:
        """The crystals from left to right, by what they are."""
        if not self.encoder_scores:
            return {"true": self.true, "reconstructed": self.reconstructed}
        return {
            "true": self.true,
            ENCODER_ALONE: self.encoder_alone,
            LATENTS_REFINED: self.reconstructed,
        }

    @property
    def drawing(self) -> Drawing:
        """What the 3-D view draws of it."""
        return Drawing(self.id, self.sides)


@dataclass(frozen=True)
class Drawing:
    """Crystals that are drawn side by side, and turned together.

    Attributes:
        id: of the crystal.
        sides: crystals by the name of their place, which is not "id"; None where there is none.
    """

    id: str
    sides: Mapping[str, Structure | None]


def select_cases(
    rows: Sequence[Mapping[str, Any]],
    worst: int = 4,
    median: int = 2,
    random: int = 6,
    seed: int = 0,
) -> list[tuple[str, str]]:
    """Choose crystals worth looking at, each once.

    Args:
        rows: "rows" of `eval.evaluate.evaluate`.
        worst: how many of the worst: failures first, then wrong elements, then positions.
        median: how many from the middle of the same order.
        random: how many at random.
        seed: of the random ones.

    Returns:
        Pairs of id and case ("worst", "median" or "random").
    """

    def badness(row: Mapping[str, Any]) -> tuple[bool, bool, float]:
        miscounted = row["num_atoms"] != row["num_atoms_predicted"]
        position, species = row["position_error_actual"], row["species_error_actual"]
        return row["failure"] is not None, miscounted, position + species / 100

    order = [row["id"] for row in sorted(rows, key=badness, reverse=True)]
    middle = max(0, len(order) // 2 - median // 2)
    shuffled = np.random.default_rng(seed).permutation(len(order))
    groups = {
        "worst": order[:worst],
        "median": order[middle : middle + median],
        "random": [order[i] for i in shuffled],
    }
    chosen: dict[str, str] = {}
    for case, names in groups.items():
        for name in names:
            full = case == "random" and list(chosen.values()).count("random") >= random
            if not full:
                chosen.setdefault(name, case)
    return list(chosen.items())


def pairs_section(pairs: Sequence[CrystalPair]) -> str:
    """HTML cards with a place for each 3-D view; report.js draws into them, in order."""
    if not pairs:
        return ""
    cards = "".join(_pair_card(pair) for pair in pairs)
    return (
        '<section><h2>Crystals</h2><p class="soft">True and reconstructed cells; drag to turn '
        "them together, scroll to zoom. Atoms that reach through a face are drawn on the "
        "opposite one, too.</p>"
        f'<div class="pairs">{cards}</div></section>'
    )


def _pair_card(pair: CrystalPair) -> str:
    badge = f'<span class="badge {escape(pair.case)}">{escape(pair.case)}</span>' * bool(pair.case)
    notes = {}
    if pair.encoder_scores:
        told = {ENCODER_ALONE: pair.encoder_scores, LATENTS_REFINED: pair.scores}
        notes = {side: facts_list(score_facts(row), "scores") for side, row in told.items()}
    kind = " three" if len(pair.sides) > 2 else ""
    legend = elements_legend(list(pair.sides.values()))
    stages = "".join(stage(side, note=notes.get(side, "")) for side in pair.sides)
    return (
        f'<article class="pair"><header><h3>{escape(pair.id)}</h3>'
        f'<span class="formula">{escape(pair.true.composition.reduced_formula)}</span>{badge}'
        f'</header><div class="stages{kind}">{stages}</div>'
        f"{legend}{facts_list(_pair_facts(pair), 'scores')}</article>"
    )


def _pair_facts(pair: CrystalPair) -> dict[str, str]:
    facts = {} if pair.encoder_scores else score_facts(pair.scores)
    if pair.nearest:
        id_, distance = pair.nearest
        facts["nearest training crystal"] = f"{id_}, {distance:.3f}"
    return facts


def stage(side: str, caption: str | None = None, note: str = "") -> str:
    """A place for one 3-D view, with its caption.

    Args:
        side: its name, as in `Drawing.sides`.
        caption: by default the side's name.
        note: HTML below the caption.
    """
    return (
        f'<figure class="stage"><div class="view" data-side="{escape(side)}"></div>'
        f"<figcaption>{escape(caption or side)}{note}</figcaption></figure>"
    )


def elements_legend(structures: Sequence[Structure | None]) -> str:
    """The elements of some crystals with their colours."""
    numbers = {z for structure in structures if structure for z in structure.atomic_numbers}
    items = "".join(
        f'<li><i style="background:{elements.color(z)}"></i>{elements.symbol(z)}</li>'
        for z in sorted(numbers)
    )
    return f'<ul class="legend">{items}</ul>'


def score_facts(row: Mapping[str, Any]) -> dict[str, str]:
    """What a card tells of one reconstruction.

    Args:
        row: of "rows" of `eval.evaluate.evaluate`, or nothing.
    """
    if not row:
        return {}
    if row.get("failure"):
        return {"failure": str(row["failure"])}
    units = {metric.name: (metric.title, metric.unit) for metric in METRICS + MATCH_METRICS}
    found, true = row["num_atoms_predicted"], row["num_atoms"]
    facts = {"atoms": f"{found} of {true}" if found != true else str(true)}
    for name in _PAIR_SCORES:
        if row.get(name) is not None:
            title, unit = units[name]
            short = title.split(",")[0].replace(" of the matched", "")
            facts[short] = format_value(row[name], unit)
    return facts


def crystal_data(drawings: Sequence[Drawing]) -> str:
    """What report.js draws: cells and atoms of every drawing, and how elements look, as JSON."""
    numbers: set[int] = set()
    drawn = []
    for drawing in drawings:
        sides: dict[str, Any] = {}
        for side, structure in drawing.sides.items():
            cell = None if structure is None else Cell.from_structure(structure)
            sides[side] = None if cell is None or fault(cell) else _drawn_crystal(cell)
            numbers |= set() if cell is None else set(cell.atomic_numbers.tolist())
        drawn.append({"id": drawing.id, **sides})
    kinds = {
        elements.symbol(z): {"color": elements.color(z), "radius": elements.drawn_radius(z)}
        for z in sorted(numbers)
    }
    return _json_for_html({"elements": kinds, "pairs": drawn})


def _drawn_crystal(cell: Cell) -> dict[str, Any]:
    """Cell and atoms in the standard orientation, Å, atoms on faces once for each face."""
    whole = with_face_images(cell)
    symbols = [elements.symbol(z) for z in whole.atomic_numbers.tolist()]
    corners = Cell(cell.lattice, np.eye(3), np.zeros(3, dtype=int))
    cart = standard_cart_coords(whole)
    return {
        "lattice": standard_cart_coords(corners).round(3).tolist(),
        "atoms": [[name, *xyz] for name, xyz in zip(symbols, cart.round(3).tolist(), strict=True)],
        "num_atoms": len(cell),
    }


def facts_list(facts: Mapping[str, object], kind: str) -> str:
    """Names and values as an HTML list of class `kind`."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="{kind}">{items}</dl>' if items else ""


def escape(value: object) -> str:
    """Text that HTML shows as it is."""
    return html.escape(str(value), quote=True)


def _json_for_html(value: object) -> str:
    """JSON that no HTML parser reads as markup."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
