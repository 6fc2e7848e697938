"""A PyTorch generator as a Synthesizer: the reference for other engines. Its import is light."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sceneloom.contract import Contract
from sceneloom.errors import EngineError, require
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.synthesizer import Synthesizer
from sceneloom_training.settings import Device

if TYPE_CHECKING:
    from sceneloom_training.networks import SynthesisNetwork

TorchPrecision = Literal["fp32", "fp16", "bf16"]


class TorchSynthesizer(Synthesizer):
    """A generator in PyTorch: without further arguments eager, float32, on the CPU."""

    def __init__(
        self,
        generator: SynthesisNetwork,
        contract: Contract,
        *,
        max_batch_size: int = 1,
        device: Device = "cpu",
        precision: TorchPrecision = "fp32",
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        """Wrap a float32 generator; a copy runs on a GPU or in another memory order. Norms and the
        last step stay float32. `compiled` compiles at the first picture of each size. Raises
        EngineError without a GPU, MissingDependencyError without torch.
        """
        require(["torch"], extra="train", purpose="running a checkpoint in PyTorch")
        import copy

        import torch

        from sceneloom_training.networks import HalfGenerator, ServedGenerator

        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError("PyTorch sees no GPU on this machine")
        network: Any = generator
        if precision != "fp32":
            dtype = torch.float16 if precision == "fp16" else torch.bfloat16
            network = HalfGenerator(generator, dtype)
        elif device != "cpu" or channels_last:
            network = copy.deepcopy(generator)
        network = network.to(device)
        if channels_last:
            network = network.to(memory_format=torch.channels_last)
        network = ServedGenerator(network, contract).to(device).eval()
        self._device = torch.device(device)
        # Not dynamic: the second size would be compiled for all sizes, which is slower.
        self.network: Any = torch.compile(network, dynamic=False) if compiled else network
        """Maps on the device -> pictures on the device."""
        super().__init__(contract, max_batch_size)
        self.engine = f"torch-{precision}"

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch. See `Synthesizer.run_batch`."""
        import torch

        tensors = [
            None if x is None else torch.from_numpy(x).to(self._device)
            for x in (label_maps, instance_maps, styles)
        ]
        with torch.inference_mode():
            image: Image = self.network(*tensors).cpu().numpy()
        return image
