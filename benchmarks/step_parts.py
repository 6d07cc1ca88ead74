"""One training step of a NeSF, which can be taken apart: its times, operations and layers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import measure
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nesf.crystal import CrystalBatch, standardised
from nesf.data.packed import PackedTensors
from nesf.geometry import NearestImage
from nesf.objective import total_loss
from nesf.precision import has_fast_bfloat16
from nesf.queries import field_target
from nesf.random import generator_for
from nesf.training import FieldTraining

CLIP = 1.0  # of the gradient's norm, as in the configs
Shape = tuple[int, int, int]


def task_of(config: Path, widths: dict[str, Any]) -> FieldTraining:
    """The LightningModule that a config names, with other widths where they are given."""
    wanted = yaml.safe_load(config.read_text())["model"]
    network = wanted["init_args"]["model"].setdefault("init_args", {})
    network |= {name: value for name, value in widths.items() if value is not None}
    parser = ArgumentParser()
    parser.add_subclass_arguments(FieldTraining, "model")
    return parser.instantiate(parser.parse_object({"model": wanted})).model


@dataclasses.dataclass
class Step:
    """One training step, whole and in parts."""

    task: FieldTraining
    crystals: PackedTensors
    batch_size: int
    device: torch.device
    taken: int = 0

    def __post_init__(self) -> None:
        self.optimizer = self.task.optimizer_options.build(self.task.model, clipped=True)
        self.batch_size = min(self.batch_size, len(self.crystals))
        self.order = torch.randperm(len(self.crystals), generator=generator_for(0, "benchmark"))

    def __call__(self) -> None:
        """A whole step."""
        generator = self.generator()
        self.loss(self.changed(self.draw(), generator), generator).backward()
        self.update()

    def generator(self) -> torch.Generator:
        self.taken += 1
        return generator_for(0, "step", self.taken, device=self.device)

    def draw(self) -> CrystalBatch:
        begin = self.taken * self.batch_size % (len(self.order) - self.batch_size + 1)
        return self.crystals.batch(self.order[begin : begin + self.batch_size])

    def changed(self, batch: CrystalBatch, generator: torch.Generator) -> CrystalBatch:
        return self.task.augmentation(standardised(batch), generator)

    def loss(self, crystals: CrystalBatch, generator: torch.Generator) -> Tensor:
        with self.precision():
            return total_loss(self.task.loss_parts(crystals, generator), self.task.losses)

    def precision(self) -> AbstractContextManager[None]:
        """As Lightning's bf16-mixed, where the hardware has it."""
        fast = has_fast_bfloat16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=fast)

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.task.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def targets(self, crystals: CrystalBatch, generator: torch.Generator, laps: Any) -> None:
        """Queries and their exact answers, which `loss` makes once more for itself."""
        laps.start()
        asked = self.task.queries(crystals, generator, self.task.model.margin)
        laps.lap("queries")
        for block in (*asked.position, *asked.species):
            cell = crystals.lattice[block.crystal]
            images = NearestImage.of(cell) if self.task.model.periodic else None
            field_target(block, crystals, self.task.model.margin, images)
        laps.lap("targets")


def parts_ms(step: Step, repeats: int) -> dict[str, float]:
    """The median time of each part, ms."""
    laps = measure.Laps(step.device)
    for _ in range(repeats):
        generator = step.generator()
        laps.start()
        batch = step.draw()
        laps.lap("batch")
        crystals = step.changed(batch, generator)
        laps.lap("augmentation")
        step.targets(crystals, generator, laps)
        laps.start()
        loss = step.loss(crystals, generator)
        laps.lap("forward")
        loss.backward()
        laps.lap("backward")
        step.update()
        laps.lap("optimizer")
    taken = laps.medians()
    taken["forward"] = max(0.0, taken["forward"] - taken["queries"] - taken["targets"])
    return {name: 1e3 * value for name, value in taken.items()}


def flops(step: Step) -> dict[str, int]:
    """Operations of forward and backward, and of the optimizer, in one step (not compiled)."""
    generator = step.generator()
    crystals = step.changed(step.draw(), generator)
    with FlopCounterMode(display=False) as model:
        step.loss(crystals, generator).backward()
    with FlopCounterMode(display=False) as optimizer:
        step.update()
    return {
        "model_flops_per_step": model.get_total_flops(),
        "optimizer_flops_per_step": optimizer.get_total_flops(),
    }


def layer_shapes(step: Step) -> Counter[Shape]:
    """Rows, inputs and outputs of the linear layers in one step."""
    found: Counter[Shape] = Counter()

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows = inputs[0].numel() // inputs[0].shape[-1]
        found[rows, inputs[0].shape[-1], output.shape[-1]] += 1

    layers = [m for m in step.task.model.modules() if isinstance(m, nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    generator = step.generator()
    step.loss(step.changed(step.draw(), generator), generator)
    for hook in hooks:
        hook.remove()
    return found
