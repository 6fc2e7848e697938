"""A checkpoint bundle's generator as a Synthesizer, on the CPU or a GPU."""

from __future__ import annotations

from pathlib import Path

import torch

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError
from sceneloom.synthesizer import Image, InstanceMap, LabelMap, Style, Synthesizer
from sceneloom_training.checkpoint import Checkpoint
from sceneloom_training.networks import ServedGenerator, SynthesisNetwork


class GeneratorSynthesizer(Synthesizer):
    """Runs a generator in PyTorch, eager, float32."""

    def __init__(
        self,
        generator: SynthesisNetwork,
        contract: Contract,
        *,
        device: str = "cpu",
        max_batch_size: int = 1,
    ) -> None:
        """Wrap a generator; it is put into eval mode and moved to the device."""
        super().__init__(contract, max_batch_size)
        self.engine = "torch-fp32"
        self._served = ServedGenerator(generator, contract).eval().to(device)
        self._device = device

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch; see `Synthesizer.run_batch`."""
        tensors = [
            None if x is None else torch.from_numpy(x).to(self._device)
            for x in (label_maps, instance_maps, styles)
        ]
        with torch.inference_mode():
            image: Image = self._served(*tensors).cpu().numpy()
        return image


def checkpoint_synthesizer(
    checkpoint: Checkpoint, name: Path, *, device: str = "cpu", max_batch_size: int = 1
) -> GeneratorSynthesizer:
    """The synthesizer of a checkpoint.

    Args:
        checkpoint: as it was loaded.
        name: what to call it in an error.
        device: cpu or cuda.
        max_batch_size: most pictures at once.

    Raises:
        CheckpointError: it takes pictures instead of label maps.
    """
    if checkpoint.contract is None:
        raise CheckpointError(
            f"{name}: takes pictures instead of label maps; evaluate its pictures with --pictures"
        )
    return GeneratorSynthesizer(
        checkpoint.generator, checkpoint.contract, device=device, max_batch_size=max_batch_size
    )
