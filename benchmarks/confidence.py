"""How well the confidence of a crystal tells whether it came back right.

python benchmarks/confidence.py SET... --model general --supercells 40 --json out.json

Each set goes through the model in the cells given, by the encoder alone and with refined latents.
A crystal is right if it has no faults (`Model.reconstruct`); its confidence was found without
knowing it. Told are, of each set and of all together: AUROC (the chance that a right crystal has
more confidence than a wrong one; none where all are right, or wrong), Brier score, likelihood, and
by confidence how many were right. `--fit` also tells which `BLURRED` of
`nesf/reconstruction/confidence.py` gives the best likelihood: validation splits belong there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import torch
from torch import Tensor

import nesf
from nesf.crystal import CrystalBatch
from nesf.reconstruction.confidence import BLURRED, STEEPNESS

EDGES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)  # between the bins of the calibration table
SMALLEST = 1e-4  # probabilities are held this far from 0 and 1 in the likelihood


@dataclass(frozen=True)
class Judged:
    """Confidence, worst spread (Å) and truth, (B,) each."""

    confidence: Tensor
    worst: Tensor
    right: Tensor


def judge(model: nesf.Model, crystals: CrystalBatch, refine: int) -> Judged:
    """Take crystals there and back."""
    found = model.reconstruct(crystals, refine=refine, setting="given")
    worst = (found.site_spread * found.crystals.mask).amax(-1)
    return Judged(found.confidence.cpu(), worst.cpu(), (found.faults == 0).cpu())


def joined(parts: list[Judged]) -> Judged:
    """All of them as one."""
    return Judged(*(torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])))


def likelihood(confidence: Tensor, right: Tensor) -> float:
    """Mean negative log-likelihood of what came out."""
    p = confidence.double().clamp(SMALLEST, 1 - SMALLEST)
    return float(-torch.where(right, p, 1 - p).log().mean())


def figures(judged: Judged) -> dict[str, Any]:
    """Scores and the calibration table."""
    from sklearn.metrics import roc_auc_score

    p, right = judged.confidence, judged.right
    both = bool(right.any()) and not bool(right.all())
    rows, bins = [], torch.bucketize(p, torch.tensor(EDGES), right=True)
    for i, (low, high) in enumerate(zip((0.0, *EDGES), (*EDGES, 1.0), strict=True)):
        inside = bins == i
        if inside.any():
            rows.append(
                {
                    "from": low,
                    "to": high,
                    "crystals": int(inside.sum()),
                    "confidence": float(p[inside].mean()),
                    "right": float(right[inside].float().mean()),
                }
            )
    return {
        "crystals": len(p),
        "right": float(right.float().mean()),
        "confidence": float(p.mean()),
        "auroc": float(roc_auc_score(right.numpy(), p.numpy())) if both else None,
        "brier": float((p - right.float()).square().mean()),
        "negative_log_likelihood": likelihood(p, right),
        "calibration": rows,
    }


def fitted(judged: Judged) -> dict[str, float]:
    """The `BLURRED` of the best likelihood, all other shares as they are."""
    others = judged.confidence.double().log() + (judged.worst.double() / BLURRED) ** STEEPNESS
    tried = {
        limit: likelihood((others - (judged.worst / limit) ** STEEPNESS).exp(), judged.right)
        for limit in torch.arange(0.01, 0.25, 0.001, dtype=torch.float64).tolist()
    }
    best = min(tried, key=tried.__getitem__)
    return {"blurred": best, "negative_log_likelihood": tried[best]}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--model", default="general")
    parser.add_argument("--limit", type=int, default=100, help="the first so many of each set")
    parser.add_argument("--refine", type=int, nargs="+", default=[0, 40], help="steps of latents")
    parser.add_argument(
        "--supercells", type=int, default=0, help="2x1x1 of so many crystals of the first set, too"
    )
    parser.add_argument("--fit", action="store_true", help="tell the best BLURRED")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = nesf.load(arguments.model, arguments.device)
    sets = {str(path): measure.read_set(path, limit=arguments.limit) for path in arguments.sets}
    if arguments.supercells:
        first = measure.read_set(arguments.sets[0], limit=arguments.supercells)
        doubled = [one * (2, 1, 1) for one in first.to_structures()]
        sets[f"2x1x1 {arguments.sets[0]}"] = CrystalBatch.from_structures(doubled)
    results: dict[str, Any] = {}
    parts = []
    for name, given in sets.items():
        fits = torch.tensor([reason is None for reason in model.too_large(given)])
        crystals = given.select(fits.nonzero().squeeze(-1))
        for steps in arguments.refine:
            parts.append(judge(model, crystals, steps))
            key = f"{name}, refine {steps}"
            results[key] = {"too_large": int((~fits).sum()), **figures(parts[-1])}
            measure.tell(key, {k: v for k, v in results[key].items() if k != "calibration"})
    results["all"] = figures(joined(parts))
    if arguments.fit:
        results["fit"] = fitted(joined(parts))
        measure.tell("fit", results["fit"])
    measure.tell("all", results["all"])
    setup = measure.setup(torch.device(arguments.device), model=arguments.model)
    measure.write(arguments.json, setup, results)


if __name__ == "__main__":
    main()
