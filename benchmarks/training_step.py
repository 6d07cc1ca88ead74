"""The training step of a NeSF: its parts, its arithmetic and its share of the device's rate.

python benchmarks/training_step.py --config configs/nesf/lcs6.yaml --compile --json out.json

The device's matrix rate is measured first, on one large product and on the products of the
network's own layers. Then the step itself: first as it runs, one step after another without a
wait (`steps_per_second`), then part by part with a wait after each (`ms`), last inside
Lightning's loop with averaged weights, as `nesf fit` runs it (`in_fit`). Data are `batch` (drawing
the crystals from the packed set on the device); augmentation, queries and their exact targets are
parts of their own. Floating-point operations are counted by PyTorch's FlopCounterMode: those of
the model are forward and backward; the share of the device's rate is given without the
optimizer's, and with them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
import measure
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from step_parts import CLIP, Shape, Step, flops, layer_shapes, parts_ms, task_of

from nesf.data.module import CrystalData
from nesf.data.packed import PackedSet, load_or_pack
from nesf.fit import quiet_lightning
from nesf.memory import keep_freed_memory, peak_memory
from nesf.precision import has_fast_bfloat16
from nesf.random import generator_for

CONFIG = Path(__file__).parents[1] / "configs" / "nesf" / "lcs6.yaml"


def product_seconds(shape: Shape, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """The time of one product (rows, inner) x (inner, columns)."""
    rows, inner, columns = shape
    a = torch.randn(rows, inner, device=device, dtype=dtype)
    b = torch.randn(columns, inner, device=device, dtype=dtype).T
    work = 2.0 * rows * inner * columns
    # enough calls to hide the clock and, on a GPU, the launch of the first
    calls = max(1, min(200, int((1e12 if device.type == "cuda" else 5e9) / work)))
    return measure.seconds(lambda: torch.mm(a, b), device, repeats, warm_ups=2, calls=calls)


def matrix_rates(step: Step, large: int, repeats: int) -> dict[str, Any]:
    """FLOP/s of products in the step's precision: a large one, and the network's own.

    Of each layer the three products of forward and backward are taken; the rate is all operations
    over all time.
    """
    dtype = torch.bfloat16 if has_fast_bfloat16(step.device) else torch.float32
    time_large = product_seconds((large,) * 3, dtype, step.device, repeats)
    work = taken = 0.0
    for (rows, inner, columns), count in layer_shapes(step).items():
        for shape in ((rows, inner, columns), (rows, columns, inner), (columns, rows, inner)):
            work += 2.0 * rows * inner * columns * count
            taken += product_seconds(shape, dtype, step.device, repeats) * count
    return {
        "precision": str(dtype).removeprefix("torch."),
        "large_product": large,
        "large_flops_per_second": 2.0 * large**3 / time_large,
        "own_shapes_flops_per_second": work / taken,
    }


def rates(step: Step, arguments: argparse.Namespace, matrix: dict[str, Any]) -> dict[str, Any]:
    """Times of the step as the model is now, and shares of the rates in `matrix`."""
    start = time.perf_counter()
    for _ in range(arguments.warm_ups):
        step()
    measure.synchronize(step.device)
    warming = time.perf_counter() - start
    each = measure.seconds(step, step.device, arguments.repeats, warm_ups=0, calls=arguments.steps)
    ms = parts_ms(step, arguments.steps)
    work = matrix["model_flops_per_step"]
    return {
        "warm_up_seconds": warming,
        "steps_per_second": 1 / each,
        "crystals_per_second": step.batch_size / each,
        "ms": ms,
        "data_share": ms["batch"] / (1e3 * each),
        "share_of_large_rate": work / each / matrix["large_flops_per_second"],
        # Muon's products are a part of the step, too
        "share_of_large_rate_with_optimizer": (work + matrix["optimizer_flops_per_step"])
        / each
        / matrix["large_flops_per_second"],
        "share_of_own_rate": work / each / matrix["own_shapes_flops_per_second"],
        "peak_memory_bytes": peak_memory(step.device),
    }


class Clock(Callback):
    """The time of the steps of a run after the first few."""

    def __init__(self, device: torch.device, skip: int) -> None:
        self.device, self.skip = device, skip
        self.steps, self.since, self.seconds = 0, 0.0, 0.0

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        measure.synchronize(self.device)
        now = time.perf_counter()
        if trainer.global_step == self.skip:
            self.since = now
        self.steps, self.seconds = trainer.global_step - self.skip, now - self.since


def in_fit(step: Step, packed: Path, steps: int, warm_ups: int) -> dict[str, float]:
    """Steps a second in Lightning's loop, with averaged weights and the schedule."""
    clock = Clock(step.device, max(1, warm_ups))
    data = CrystalData([str(packed)], [str(packed)], step.batch_size)
    trainer = lightning.Trainer(
        accelerator="gpu" if step.device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if has_fast_bfloat16(step.device) else "32-true",
        max_steps=steps + clock.skip,
        gradient_clip_val=CLIP,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock, EMAWeightAveraging(decay=0.998)],
    )
    with quiet_lightning():
        trainer.fit(step.task, data)
    step.task.to(step.device)  # Lightning leaves it on the processor
    return {"steps_per_second": clock.steps / clock.seconds}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG, help="of a nesf fit")
    parser.add_argument("--data", nargs="+", help="crystals; by default random packings")
    parser.add_argument("--crystals", type=int, default=2048, help="random packings to draw from")
    parser.add_argument("--max-atoms", type=int, default=20, help="of a random packing")
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 256], help="crystals a step")
    for name in ("latent-dim", "encoder-width"):
        parser.add_argument(f"--{name}", type=int, help="instead of the config's")
    for name in ("position-widths", "species-widths"):
        parser.add_argument(f"--{name}", type=int, nargs="+", help="instead of the config's")
    parser.add_argument("--compile", action="store_true", help="once more with torch.compile")
    parser.add_argument("--steps", type=int, default=20, help="between two looks at the clock")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm-ups", type=int, default=10)
    parser.add_argument("--large", type=int, help="edge of the large product")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the commands do
    device = torch.device(arguments.device)
    large = arguments.large or (8192 if device.type == "cuda" else 2048)
    names = ("latent_dim", "encoder_width", "position_widths", "species_widths")
    widths = {name: getattr(arguments, name) for name in names}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        packed = crystals_at(Path(folder), arguments)
        for size in arguments.batch:
            torch.manual_seed(0)
            task = task_of(arguments.config, widths).to(device)
            step = Step(task, PackedSet.load(packed).tensors(device), size, device)
            results[f"batch {size}"] = result = measured(step, packed, large, arguments)
            measure.tell(f"batch {size}", result)
    parameters = sum(p.numel() for p in task.model.parameters())
    found = measure.setup(device, config=arguments.config.name, parameters=parameters, **widths)
    measure.write(arguments.json, found, results)


def crystals_at(folder: Path, arguments: argparse.Namespace) -> Path:
    """The packed set to train on."""
    if arguments.data:
        return load_or_pack(arguments.data, cache_dir=folder, progress=False)
    drawn = torch.randint(
        1, arguments.max_atoms + 1, (arguments.crystals,), generator=generator_for(0, "sizes")
    )
    path = folder / "packings.nesf"
    PackedSet.from_batch(measure.packings(drawn.tolist())).save(path)
    return path


def measured(step: Step, packed: Path, large: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The rates of a batch size, plain, in Lightning's loop and compiled."""
    matrix = matrix_rates(step, large, arguments.repeats) | flops(step)
    result = {"matrix": matrix, "plain": rates(step, arguments, matrix)}
    steps = arguments.steps * arguments.repeats
    result["in_fit"] = in_fit(step, packed, steps, arguments.warm_ups)
    if arguments.compile:
        for name in ("encoder", "position_decoder", "species_decoder"):
            getattr(step.task.model, name).compile()
        result["compiled"] = rates(step, arguments, matrix)
        result["compiled_over_plain"] = (
            result["compiled"]["steps_per_second"] / result["plain"]["steps_per_second"]
        )
    return result


if __name__ == "__main__":
    main()
