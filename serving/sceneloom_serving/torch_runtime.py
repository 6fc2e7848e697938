"""PyTorch as a Synthesizer: the reference that every other engine is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sceneloom.contract import Contract
from sceneloom.extras import require
from sceneloom.synthesizer import Image, InstanceMap, LabelMap, Style, Synthesizer

if TYPE_CHECKING:
    from sceneloom_training.networks import SynthesisNetwork


class TorchSynthesizer(Synthesizer):
    """Runs a generator in PyTorch, eager, float32, on the CPU."""

    def __init__(
        self, generator: SynthesisNetwork, contract: Contract, *, max_batch_size: int = 1
    ) -> None:
        """Wrap a generator; it is put into eval mode.

        Raises:
            MissingDependencyError: torch is not installed.
        """
        require(["torch"], extra="train", purpose="running a checkpoint in PyTorch")
        from sceneloom_training.networks import ServedGenerator

        self._served = ServedGenerator(generator, contract).eval()
        super().__init__(contract, max_batch_size)

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch; see `Synthesizer.run_batch`."""
        import torch

        tensors = [
            None if x is None else torch.from_numpy(x) for x in (label_maps, instance_maps, styles)
        ]
        with torch.inference_mode():
            image: Image = self._served(*tensors).numpy()
        return image
