"""Every command by its name. What it calls is imported only then: asking for help stays quick."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

RESUME, AGAIN = "go on with --resume", "call it again to go on"


@dataclass(frozen=True)
class Verb:
    """One command.

    Attributes:
        function: "module:function", imported only when the command is called.
        summary: for `nesf --help`.
        raw: the function parses its own arguments.
        resumes: how an interrupted run goes on, for its last line.
        shared: ranks share the work, and the first of them tells what went wrong in any.
        processes: it starts ranks of its own where it is asked to.
    """

    function: str
    summary: str
    raw: bool = False
    resumes: str | None = None
    shared: bool = False
    processes: bool = False

    def load(self) -> Callable[..., int | None]:
        """Import the function."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


VERBS = {
    "fit": Verb(
        "nesf.fit:fit_command", "train a model from a config", True, "go on with --restart auto"
    ),
    "reconstruct": Verb(
        "nesf.commands.models:reconstruct_files",
        "take crystals through a model and back, or through their exact fields",
        resumes=RESUME,
        shared=True,
        processes=True,
    ),
    "encode": Verb(
        "nesf.commands.models:encode_files",
        "crystals to latents (.npz)",
        resumes=RESUME,
        shared=True,
        processes=True,
    ),
    "decode": Verb("nesf.commands.models:decode_files", "latents to crystals", resumes=RESUME),
    "perturb": Verb(
        "nesf.generation.commands:perturb_files",
        "crystals like given ones, around their latents",
        resumes=RESUME,
    ),
    "interpolate": Verb(
        "nesf.generation.commands:interpolate_files",
        "crystals between two given ones",
        resumes=RESUME,
    ),
    "sample": Verb(
        "nesf.generation.commands:sample_files", "new crystals, drawn at random", resumes=RESUME
    ),
    "properties": Verb(
        "baselines.voxel_icsg3d.properties:predict_files", "predict properties of crystals"
    ),
    "compare": Verb(
        "eval.compare.command:compare",
        "train and score several models alike",
        resumes="go on with --restart auto",
    ),
    "evaluate": Verb(
        "nesf.commands.files:evaluate_files",
        "score predicted crystals against true ones",
        shared=True,
    ),
    "data pack": Verb("nesf.commands.files:pack_files", "pack crystals of any format for training"),
    "data join": Verb("nesf.commands.files:join_files", "put packed sets together"),
    "data boxes": Verb(
        "nesf.commands.files:box_files",
        "cut boxes of many crystals, for fields that are not periodic",
    ),
    "data prototypes": Verb(
        "nesf.commands.files:prototype_files",
        "make crystals of known prototypes, without a network",
    ),
    "data random": Verb(
        "nesf.commands.files:random_files", "make random crystals of any space group"
    ),
    "data fetch-mp": Verb(
        "nesf.commands.files:fetch_files",
        "fetch crystals from the Materials Project",
        resumes=AGAIN,
    ),
    "export": Verb(
        "nesf.commands.files:export_model", "write a trained model as one file to share"
    ),
    "report": Verb("nesf.commands.report:report_run", "score a run, and one page to look at"),
    "demo": Verb("nesf.commands.demo:demo", "all of it on prototypes, in minutes", resumes=AGAIN),
}
