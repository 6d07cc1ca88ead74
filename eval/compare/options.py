"""What a comparison is made of: files, contestants, scoring, growth; each checks itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")  # it becomes a folder


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
    """One model of the comparison: trained here, given with its weights, or a simple rule.

    Attributes:
        name: a plain word; results and folders carry it.
        title: how tables and charts call it; by default its name.
        config: a `nesf fit` configuration to train it from.
        overrides: more options of `nesf fit`, e.g. `--model.model.latent_dim=64`.
        val: files that its training is validated on, instead of those of the data: crystals for a
            model of crystals, where boxes are compared, and it is given what they repeat.
        weights: instead of `config`: a run folder, a model file, or a shipped name.
        refine: steps of fitting its latents to the test crystals, at most (`nesf.refinement`).
        latent: the model gives crystals back, and a ridge regression on its latents competes for
            a property.
        simple: instead of both: the training set's mean, its median, or a ridge regression on the
            composition. A comparison for a property has mean and ridge without being told.
        published_epochs: epochs that its authors trained it for.
        note: one sentence about it, for the page.
        trusted_prefixes: packages, besides this one's, whose classes its file may name.
    """

    name: str
    title: str = ""
    config: str | None = None
    overrides: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    weights: str | None = None
    refine: int = 0
    latent: bool = False
    simple: Literal["mean", "median", "ridge"] | None = None
    published_epochs: int | None = None
    note: str = ""
    trusted_prefixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"the name {self.name!r} is not a plain word of letters, digits, '.', '_' and '-'"
            )
        given = [self.config, self.weights, self.simple]
        if sum(one is not None for one in given) != 1:
            raise ValueError(
                "give either config, to train it, or weights, to take it as it is (the model "
                f"{self.name} has {'more than one' if any(given) else 'neither'})"
            )
        if self.simple and self.latent:
            raise ValueError(f"{self.name} is a simple rule, which has no latent")
        if self.config is None and (self.overrides or self.val):
            raise ValueError(
                f"overrides and val are of a training, and {self.name} is not trained here"
            )
        if self.refine < 0:
            raise ValueError(f"refine is {self.refine}; give a number of steps, or 0 for none")
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
