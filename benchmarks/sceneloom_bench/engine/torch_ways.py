"""PyTorch's ways to run the generator: what a user would run without an engine. All of them take
as many threads as engines do, and what is float32 is float32 on a GPU, too.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from sceneloom.errors import InputError
from sceneloom.synthesizer import Image, InstanceMap, LabelMap, Style, Synthesizer
from sceneloom_bench.engine.peaks import Device
from sceneloom_bench.engine.turns import DeviceTimed
from sceneloom_serving.onnx_runtime import usable_cpus
from sceneloom_training.torch_synthesizer import TorchSynthesizer

EAGER = "torch-fp32"
"""The baseline: PyTorch eager, float32, NCHW, as published."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchWay:
    """How PyTorch runs."""

    precision: Literal["fp32", "fp16"] = "fp32"
    """Of weights and convolutions."""
    channels_last: bool = False
    """Memory order; without it NCHW, as published."""
    compiled: bool = False
    """By torch.compile."""

    def __str__(self) -> str:
        """For people."""
        order = "channels last" if self.channels_last else "NCHW"
        return f"{self.precision}, {order}, {'torch.compile' if self.compiled else 'eager'}"


TORCH_WAYS: dict[Device, dict[str, TorchWay]] = {
    "cpu": {EAGER: TorchWay(), "torch-fp32-compiled": TorchWay(compiled=True)},
    "cuda": {
        EAGER: TorchWay(),
        "torch-fp32-compiled": TorchWay(compiled=True),
        "torch-fp16": TorchWay(precision="fp16", channels_last=True),
        "torch-fp16-compiled": TorchWay(precision="fp16", channels_last=True, compiled=True),
    },
}
"""Device -> name -> way, the plainest first."""


def open_torch(checkpoint: Path, way: TorchWay, device: Device, largest: int) -> Synthesizer:
    """Load a checkpoint into PyTorch.

    Args:
        checkpoint: a bundle of a model that takes label maps.
        way: how it runs.
        device: where.
        largest: most pictures at once.
    """
    import torch

    from sceneloom_training.checkpoint import load_checkpoint

    torch.set_num_threads(usable_cpus())
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # as the published test script has it
    trained = load_checkpoint(checkpoint)
    if trained.contract is None:
        raise InputError(f"{checkpoint}: its model takes pictures, not label maps")
    engine = TorchSynthesizer(
        trained.generator,
        trained.contract,
        max_batch_size=largest,
        device=device,
        precision=way.precision,
        channels_last=way.channels_last,
        compiled=way.compiled,
    )
    return EventTimedTorch(engine) if device == "cuda" else engine


class EventTimedTorch(DeviceTimed):
    """PyTorch on a GPU, with the time between two CUDA events around the network."""

    def __init__(self, engine: TorchSynthesizer) -> None:
        """Put the events around the engine's network.

        Args:
            engine: on a GPU; it is this one's from now on.
        """
        import torch

        super().__init__(engine.contract, engine.max_batch_size)
        self._engine, self._network = engine, engine.network
        event: Any = torch.cuda.Event
        self._start, self._end = event(enable_timing=True), event(enable_timing=True)
        engine.network = self._timed

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch; see `Synthesizer.run_batch`."""
        image = self._engine.run_batch(label_maps, instance_maps, styles)
        self._end.synchronize()
        self.device_seconds = self._start.elapsed_time(self._end) / 1000
        return image

    def _timed(self, *tensors: object) -> object:
        self._start.record()
        image: object = self._network(*tensors)
        self._end.record()
        return image
