"""`nesf demo`: the main job on generated crystals, from nothing to a report."""

from __future__ import annotations

from pathlib import Path

from nesf.errors import InputError
from nesf.run_folder import MODEL

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def demo(
    output: str = "runs/demo",
    config: str = "configs/nesf/demo.yaml",
    count: int = 2000,
    max_atoms: int = 8,
    seed: int = 0,
    device: str = "auto",
    refine: int | None = None,
) -> int:
    """Make prototype crystals, train a small NeSF on them, reconstruct unseen ones, and report.

    The test crystals are of the same prototypes as the training crystals and of formulas that do
    not occur among them. Scores of the encoder alone and of latents refined on the test crystals
    themselves stand side by side (`nesf report`). An interrupted demo goes on where it stopped.

    Args:
        output: the run folder; crystals go to `data/` in it.
        config: of the training.
        count: crystals in all; 80 % train, 10 % validate, 10 % test.
        max_atoms: largest cell.
        seed: of the crystals.
        device: cpu, cuda, cuda:0, ... or auto.
        refine: steps of fitting a latent to its crystal, at most; 0 for the encoder alone.
    """
    if not Path(config).is_file():
        raise InputError(
            f"there is no configuration {config}; run the demo in the project's folder, or give "
            "--config"
        )
    from nesf.commands.report import report_run
    from nesf.fit import fit_command

    data = make_data(Path(output) / "data", count, max_atoms, seed)
    if not (Path(output) / MODEL).is_file():
        fit_command(
            [
                f"--config={config}",
                f"--trainer.default_root_dir={output}",
                f"--data.train=[{data['train']}]",
                f"--data.val=[{data['val']}]",
                f"--trainer.accelerator={'auto' if device == 'auto' else _accelerator(device)}",
                "--trainer.devices=1",
                "--restart=auto",
            ]
        )
    test = [str(data["test"])]
    return report_run(output, test, "nesf demo", device, seed, refine=refine, resume=True)


def make_data(folder: Path, count: int, max_atoms: int, seed: int) -> dict[str, Path]:
    """The three parts as packed sets, made once."""
    from nesf.data.packed import PackedSet
    from nesf.data.prototypes import prototype_splits, write_prototypes

    paths = {name: folder / f"{name}.nesf" for name in FRACTIONS}
    if all(path.is_file() for path in paths.values()):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "prototypes.nesf"
    write_prototypes(whole, count, seed, max_atoms=max_atoms)
    crystals = PackedSet.load(whole)
    for name, ids in prototype_splits(crystals, FRACTIONS, seed).items():
        crystals.select(crystals.positions(ids)).save(paths[name])
    return paths


def _accelerator(device: str) -> str:
    return "gpu" if device.startswith("cuda") else device
