"""A PyTorch generator as a Synthesizer: the reference for other engines. Its import is light."""

from __future__ import annotations

from collections.abc import Callable
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
        graphed: bool = False,
    ) -> None:
        """Wrap a float32 generator; a copy runs on a GPU or in another memory order. Norms and the
        last step stay float32. `compiled` compiles at the first picture of each size. `graphed`
        captures a CUDA graph of upload, network and download at each change of shape. Raises
        EngineError without a GPU, MissingDependencyError without torch.
        """
        require(["torch"], extra="train", purpose="running a checkpoint in PyTorch")
        import copy

        import torch

        from sceneloom_training.networks import HalfGenerator, ServedGenerator

        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError("PyTorch sees no GPU on this machine")
        if graphed and device != "cuda":
            raise EngineError("a CUDA graph needs a GPU: device cuda")
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
        self._device, self._graphed = torch.device(device), graphed
        self._graph: _Graph | None = None
        # Not dynamic: the second size would be compiled for all sizes, which is slower.
        self.network: Any = torch.compile(network, dynamic=False) if compiled else network
        """Maps on the device -> pictures on the device."""
        super().__init__(contract, max_batch_size)
        self.engine = f"torch-{'graph-' if graphed else ''}{precision}"
        event: Any = torch.cuda.Event
        on_gpu = device == "cuda"
        self._events = [event(enable_timing=True) for _ in range(2)] if on_gpu else []

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch. See `Synthesizer.run_batch`."""
        import torch

        tensors = [
            None if x is None else torch.from_numpy(x) for x in (label_maps, instance_maps, styles)
        ]
        with torch.inference_mode():
            if not self._graphed:
                inputs = [None if x is None else x.to(self._device) for x in tensors]
                image: Image = self._timed(lambda: self.network(*inputs)).cpu().numpy()
                return image
            if self._graph is None or not self._graph.fits(tensors):
                self._graph = None  # its memory is free for the next one
                self._graph = _Graph(self.network, tensors)
            self._graph.fill(tensors)
            self._timed(self._graph.replay)
            copied: Image = self._graph.image.numpy().copy()
            return copied

    def _timed(self, work: Callable[[], Any]) -> Any:
        """Run work on the device; on a GPU between two events, and until it is done."""
        if not self._events:
            return work()
        start, end = self._events
        start.record()
        result = work()
        end.record()
        end.synchronize()
        self.device_seconds = start.elapsed_time(end) / 1000
        return result


class _Graph:
    """A network at one shape as a CUDA graph, from maps to a picture in pinned memory."""

    def __init__(self, network: Any, examples: list[Any]) -> None:
        """Capture it, after runs in which libraries choose their kernels and allocate."""
        import torch

        self._hosts = [None if x is None else x.pin_memory() for x in examples]
        self._inputs = [None if x is None else x.cuda() for x in self._hosts]
        stream: Any = torch.cuda.Stream
        side = stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                image = network(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.image = torch.empty(image.shape, dtype=image.dtype, pin_memory=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for there, here in zip(self._inputs, self._hosts, strict=True):
                if there is not None:
                    there.copy_(here, non_blocking=True)
            self.image.copy_(network(*self._inputs), non_blocking=True)

    def fits(self, tensors: list[Any]) -> bool:
        """Whether maps have the shape of the graph."""
        shapes = [None if x is None else x.shape for x in tensors]
        return shapes == [None if x is None else x.shape for x in self._hosts]

    def fill(self, tensors: list[Any]) -> None:
        """Copy maps of this shape into the pinned memory."""
        for here, tensor in zip(self._hosts, tensors, strict=True):
            if here is not None:
                here.copy_(tensor)

    def replay(self) -> None:
        """Upload, render and download, in the current stream; `image` is then the picture."""
        self._graph.replay()
