"""What a comparison is: its data, its budget, its models; read from one YAML file and checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nesf.run_folder import MODEL

Restart = Literal["auto", "fresh", "no"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")  # it becomes a folder


@dataclass(frozen=True)
class DataFiles:
    """The crystals, the same for every model.

    Attributes:
        train: files to train on, in any of the readers' formats.
        val: files to validate on; learning curves and times to an error level are measured there.
        test: files to be scored on, which no training sees.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            if not getattr(self, name):
                raise ValueError(f"data.{name} names no file")


@dataclass(frozen=True)
class Contestant:
    """One model of the comparison: trained here, or given with its weights.

    Attributes:
        name: a plain word; results and folders carry it.
        title: how tables and charts call it; by default its name.
        config: a `nesf fit` configuration to train it from.
        overrides: more options of `nesf fit`, e.g. `--model.model.latent_dim=64`.
        weights: instead of `config`: a run folder, a model file, or a shipped name.
        published_epochs: epochs that its authors trained it for.
        note: one sentence about it, for the page.
        trusted_prefixes: packages, besides this one's, whose classes its file may name.
    """

    name: str
    title: str = ""
    config: str | None = None
    overrides: tuple[str, ...] = ()
    weights: str | None = None
    published_epochs: int | None = None
    note: str = ""
    trusted_prefixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"the name {self.name!r} is not a plain word of letters, digits, '.', '_' and '-'"
            )
        if (self.config is None) == (self.weights is None):
            raise ValueError(
                "give either config, to train it, or weights, to take it as it is (the model "
                f"{self.name} has {'both' if self.config else 'neither'})"
            )
        if self.weights is not None and self.overrides:
            raise ValueError(f"overrides change a training, and {self.name} is not trained here")
        foreign = [word for word in self.overrides if not word.startswith("--")]
        if foreign:
            raise ValueError(f"an override is one word, --option=value, not {foreign[0]!r}")
        if self.published_epochs is not None and self.published_epochs < 1:
            raise ValueError(f"published_epochs is {self.published_epochs}; give at least 1")

    @property
    def label(self) -> str:
        """Its title."""
        return self.title or self.name


@dataclass(frozen=True)
class Scoring:
    """How the models are scored.

    Attributes:
        boxes: the crystals are boxes (`nesf data boxes`), which have no images: distances are
            plain ones, and nothing is matched or projected.
        refine_symmetry: score a second time after projecting onto the symmetry found.
        matching: run StructureMatcher.
        bootstrap: resamples for the 95 % intervals.
        batch_size: crystals encoded and decoded at once.
        timeout_s: time limit for matching one pair, s.
        limit_minutes: time limit for reconstructing the test set.
        workers: processes for reading and matching; by default one a CPU core.
        seed: of resamples, chance level and cases at random.
        worst: crystals to draw of each model's worst.
        median: and of the middle of its order.
    """

    boxes: bool = False
    refine_symmetry: bool = True
    matching: bool = True
    bootstrap: int = 1000
    batch_size: int = 128
    timeout_s: float = 20.0
    limit_minutes: float = 60.0
    workers: int | None = None
    seed: int = 0
    worst: int = 3
    median: int = 2

    def __post_init__(self) -> None:
        for name in ("batch_size", "timeout_s", "limit_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"scoring.{name} is {getattr(self, name)}; it must be above 0")
        for name in ("bootstrap", "worst", "median"):
            if getattr(self, name) < 0:
                raise ValueError(f"scoring.{name} is {getattr(self, name)}; give at least 0")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"scoring.workers is {self.workers}; give at least 1")


@dataclass(frozen=True)
class Variant:
    """A changed model whose speed and memory are measured, not its errors.

    Attributes:
        model: which of the models is changed.
        series: what is varied, e.g. "voxels along an edge"; variants of one series share a chart.
        value: its value here.
        label: how the table calls this variant; by default the value.
        changes: arguments of the model's class that differ. Where the trained weights no longer
            fit, random ones are used, and the table says so.
    """

    model: str
    series: str
    value: float
    label: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """How speed and memory are measured against the size of cells and of models.

    Attributes:
        crystals: test crystals for each measurement, at most.
        batch_size: crystals at once.
        limit_s: time limit for each variant, and for each cell size, s; 0 measures nothing.
        variants: changed models.
    """

    crystals: int = 16
    batch_size: int = 8
    limit_s: float = 120.0
    variants: tuple[Variant, ...] = ()

    def __post_init__(self) -> None:
        if self.crystals < 1 or self.batch_size < 1:
            raise ValueError("growth.crystals and growth.batch_size must be at least 1")
        if self.limit_s < 0:
            raise ValueError(f"growth.limit_s is {self.limit_s}; give 0 or more")


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison is made of.

    Attributes:
        data: the crystals.
        models: who takes part.
        output: the folder of results.
        title: headline of the page.
        seeds: every model is trained once for each of them.
        device: cpu, cuda, cuda:0, ... or auto, for trainings and reconstructions.
        threads: CPU threads of every training and reconstruction; 0 leaves torch's own choice.
        budget_minutes: wall-clock time of each training; without one, the models' own
            configurations say how long they are trained.
        scoring: how the models are scored.
        growth: what else is measured.
    """

    data: DataFiles
    models: tuple[Contestant, ...]
    output: str
    title: str = "Comparison"
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    threads: int = 0
    budget_minutes: float | None = None
    scoring: Scoring = Scoring()
    growth: Growth = Growth()

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if not names:
            raise ValueError("models is empty; name at least one")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two models have the name {twice[0]}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must be one or more different numbers")
        if self.budget_minutes is not None and not self.budget_minutes >= 1 / 60:
            raise ValueError(f"budget_minutes is {self.budget_minutes}; give a second at least")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; give 0 or more")
        unknown = [v.model for v in self.growth.variants if v.model not in names]
        if unknown:
            raise ValueError(f"growth.variants names {unknown[0]}, which is none of the models")

    @property
    def budget_s(self) -> float | None:
        """Wall-clock time of each training, s."""
        return None if self.budget_minutes is None else 60 * self.budget_minutes

    def entries(self) -> Iterator[Entry]:
        """Every model with every seed; one with given weights once."""
        for model in self.models:
            for seed in self.seeds if model.config else (None,):
                yield Entry(self, model, seed)

    def shared_terms(self) -> dict[str, Any]:
        """What must stay the same for results to be comparable, as plain JSON."""
        kept = ("data", "threads", "budget_minutes")
        terms: dict[str, Any] = {name: asdict(self)[name] for name in kept}
        terms["scoring"] = {
            name: getattr(self.scoring, name)
            for name in ("refine_symmetry", "matching", "bootstrap", "batch_size", "seed")
        }
        if self.scoring.boxes:
            terms["scoring"]["boxes"] = True
        return terms


@dataclass(frozen=True)
class Entry:
    """One model with one seed, and where its files lie.

    Attributes:
        plan: the comparison.
        model: the model.
        seed: of its training; None where its weights were given.
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
        """The reconstructed test crystals."""
        return self.folder / "reconstructed.jsonl"

    @property
    def scores(self) -> Path:
        """The whole result of its evaluation, one row a crystal."""
        return self.folder / "scores.json"
