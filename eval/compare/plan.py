"""What is compared: one comparison, or several parts on one page; and who takes part in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from eval.compare.options import NAME, Contestant, DataFiles, Growth, Scoring
from nesf.run_folder import MODEL

Restart = Literal["auto", "fresh", "no"]
Kind = Literal["reconstruction", "properties"]
RESERVED = ("models", "plots")

# what every predictor of a property has to beat
SIMPLE = (
    Contestant(name="ridge", title="Ridge on composition", simple="ridge"),
    Contestant(name="mean", title="Mean of training", simple="mean"),
)


@dataclass(frozen=True)
class Comparison:
    """One comparison: everything that its models have in common.

    Attributes:
        data: the crystals.
        models: who takes part.
        output: the folder of results.
        title: headline of the page.
        name: of a part of a plan, a plain word.
        kind: whether crystals are given back or a property is predicted.
        target: of kind `properties`, the property that is predicted, a column of numbers.
        seeds: every model is trained once for each of them.
        device: cpu, cuda, cuda:0, ... or auto, for trainings and all else.
        threads: CPU threads of every training and reconstruction; 0 leaves torch's own choice.
        budget_minutes: wall-clock time of each training; without one, the models' own
            configurations say how long they are trained.
        scoring: how the models are scored.
        growth: what else is measured, of kind `reconstruction`.
    """

    data: DataFiles
    models: tuple[Contestant, ...]
    output: str
    title: str = "Comparison"
    name: str = ""
    kind: Kind = "reconstruction"
    target: str | None = None
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    threads: int = 0
    budget_minutes: float | None = None
    scoring: Scoring = field(default_factory=Scoring)
    growth: Growth = field(default_factory=Growth)

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models is empty; name at least one")
        names = [model.name for model in self.contestants]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two models have the name {twice[0]}")
        if self.name and not NAME.fullmatch(self.name):
            raise ValueError(
                f"the name {self.name!r} is not a plain word of letters, digits, '.', '_' and '-'"
            )
        if self.name in RESERVED:
            raise ValueError(f"a part cannot have the name {self.name}, which is a folder of ours")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must be one or more different numbers")
        if self.budget_minutes is not None and not self.budget_minutes >= 1 / 60:
            raise ValueError(f"budget_minutes is {self.budget_minutes}; give a second at least")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; give 0 or more")
        unknown = [v.model for v in self.growth.variants if v.model not in names]
        if unknown:
            raise ValueError(f"growth.variants names {unknown[0]}, which is none of the models")
        self._check_kind()

    def _check_kind(self) -> None:
        """Refuse what only the other kind of comparison has."""
        if self.kind == "properties":
            if not self.target:
                raise ValueError("target is missing; name the property to predict")
            if self.scoring.boxes or self.growth != Growth():
                which = "scoring.boxes" if self.scoring.boxes else "growth"
                raise ValueError(f"{which} belongs to kind: reconstruction; leave it out")
            return
        if self.target:
            raise ValueError("target belongs to kind: properties; give the kind, too")
        for model in self.models:
            if model.latent or model.simple:
                which = "latent" if model.latent else "simple"
                raise ValueError(
                    f"{which} of the model {model.name} belongs to kind: properties; leave it out"
                )

    @property
    def predicts(self) -> bool:
        """Whether a property is predicted."""
        return self.kind == "properties"

    @property
    def contestants(self) -> tuple[Contestant, ...]:
        """The models and, for a property, the simple rules that they have to beat."""
        given = {model.simple for model in self.models}
        more = [one for one in SIMPLE if self.predicts and one.simple not in given]
        return (*self.models, *more)

    @property
    def budget_s(self) -> float | None:
        """Wall-clock time of each training, s."""
        return None if self.budget_minutes is None else 60 * self.budget_minutes

    def entries(self) -> Iterator[Entry]:
        """Every model with every seed; one that is not trained here once."""
        for model in self.contestants:
            for seed in self.seeds if model.config else (None,):
                yield Entry(self, model, seed)

    def shared_terms(self) -> dict[str, Any]:
        """What must stay the same for results to be comparable, as plain JSON."""
        kept = ("data", "threads", "budget_minutes")
        terms: dict[str, Any] = {name: asdict(self)[name] for name in kept}
        if self.predicts:
            terms |= {"kind": self.kind, "target": self.target}
            names: tuple[str, ...] = ("bootstrap", "batch_size", "seed")
        else:
            names = ("refine_symmetry", "matching", "bootstrap", "batch_size", "seed")
        terms["scoring"] = {name: getattr(self.scoring, name) for name in names}
        if self.scoring.boxes:
            terms["scoring"]["boxes"] = True
        return terms


@dataclass(frozen=True)
class Plan:
    """What one call of `nesf compare` does: one comparison, or several parts on one page.

    Attributes:
        title: headline of the page.
        output: the folder of results; parts have folders of their own in it.
        device: the same for all parts.
        parts: the comparisons, in their order.
    """

    title: str
    output: str
    device: str
    parts: tuple[Comparison, ...]

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two parts have the name {twice[0]}")
        if not names:
            raise ValueError("parts is empty; name at least one")

    @property
    def several(self) -> bool:
        """Whether the plan names its parts."""
        return bool(self.parts[0].name)


@dataclass(frozen=True)
class Entry:
    """One model with one seed, and where its files lie.

    Attributes:
        plan: the comparison.
        model: the model.
        seed: of its training; None where it is not trained here.
    """

    plan: Comparison
    model: Contestant
    seed: int | None

    @property
    def key(self) -> tuple[str, int | None]:
        """What tells it from the others."""
        return self.model.name, self.seed

    @property
    def title(self) -> str:
        """For messages."""
        return self.model.name if self.seed is None else f"{self.model.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Of all its files."""
        part = "given" if self.seed is None else f"seed-{self.seed}"
        return Path(self.plan.output) / "models" / self.model.name / part

    @property
    def run(self) -> Path:
        """Run folder of its training."""
        return self.folder / "run"

    @property
    def weights(self) -> str:
        """What `nesf.load` takes."""
        return self.model.weights or str(self.run / MODEL)

    @property
    def predictions(self) -> Path:
        """The reconstructed test crystals, or the predicted properties."""
        return self.folder / ("predicted.csv" if self.plan.predicts else "reconstructed.jsonl")

    @property
    def scores(self) -> Path:
        """The whole result of its evaluation, one row a crystal."""
        return self.folder / "scores.json"
