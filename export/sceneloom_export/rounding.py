"""The judge of 16 bit engines: the PyTorch graph with every tensor of the network really rounded.

ONNX Runtime's CPU provider removes half precision casts, so that it proves nothing about them: a
convolution that reached 294,631 gave no infinity there. Here every result is rounded to the type
(convolutions add up in float32 before, as GPUs do), and the largest value of each layer is kept. A
float16 graph fails if any is not finite or above `HALF_LIMIT`, a quarter of what float16 holds:
other maps reach further than those that were tried.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sceneloom.contract import Contract
from sceneloom.errors import ParityError
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.synthesizer import Synthesizer
from sceneloom_training.networks import ServedGenerator, SynthesisNetwork

HALF_LIMIT = 16_000.0
"""Largest value of any layer of a float16 graph."""


class RoundedSynthesizer(Synthesizer):
    """Runs a generator in float32 on the CPU, with every tensor rounded to 16 bits."""

    def __init__(self, generator: SynthesisNetwork, contract: Contract, dtype: torch.dtype) -> None:
        """Copy a generator and round its weights; norms' scales and shifts stay float32.

        Args:
            generator: float32, in eval mode.
            contract: of the model.
            dtype: float16 or bfloat16.
        """
        super().__init__(contract)
        self.largest: dict[str, float] = {}
        """Layer -> largest absolute value that it gave, before it was rounded; not a number where
        it gave one that is not finite.
        """
        self._dtype = dtype
        rounded = copy.deepcopy(generator).eval()
        for module in rounded.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                for parameter in module.parameters(recurse=False):
                    parameter.copy_(parameter.to(dtype).float())
        self._served = ServedGenerator(rounded, contract)
        self._names = {module: name for name, module in rounded.named_modules()}
        self._network = rounded

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch; see `Synthesizer.run_batch`."""
        tensors = [
            None if x is None else torch.from_numpy(x) for x in (label_maps, instance_maps, styles)
        ]
        with torch.inference_mode(), self._rounding():
            image: Image = self._served(*tensors).numpy()
        return image

    @contextlib.contextmanager
    def _rounding(self) -> Iterator[None]:
        """While the network runs, and only then: what is around it is float32."""
        mode = _Rounding(self._dtype, self.largest)
        stack = contextlib.ExitStack()
        hooks = [
            self._network.register_forward_pre_hook(lambda *_: stack.enter_context(mode) and None),
            self._network.register_forward_hook(lambda *_: stack.close()),
        ]
        for module, name in self._names.items():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.InstanceNorm2d)):
                enter, leave = _naming(mode, name)
                hooks += [
                    module.register_forward_pre_hook(enter),
                    module.register_forward_hook(leave),
                ]
        try:
            yield
        finally:
            stack.close()
            for hook in hooks:
                hook.remove()


def _naming(mode: _Rounding, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
    def enter(*_: Any) -> None:
        mode.layer = name

    def leave(*_: Any) -> None:
        mode.layer = _BETWEEN

    return enter, leave


_BETWEEN = "between layers"
_FLOAT32 = (torch.tanh, torch.Tensor.tanh)
"""The last step, which is float32 in every engine."""
_LOOKS = (torch.is_grad_enabled, torch.is_floating_point)


class _Rounding(TorchFunctionMode):
    """Rounds what every function of torch returns, and keeps the largest of each layer."""

    def __init__(self, dtype: torch.dtype, largest: dict[str, float]) -> None:
        super().__init__()
        self._dtype, self._largest, self.layer = dtype, largest, _BETWEEN

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _LOOKS or func in _FLOAT32 or not isinstance(result, Tensor):
            return result
        if not result.is_floating_point() or not result.dim():
            return result
        low, high = map(float, torch.aminmax(result))
        reached = max(-low, high)
        if not math.isnan(self._largest.get(self.layer, 0.0)):
            finite = math.isfinite(low) and math.isfinite(high)
            before = self._largest.get(self.layer, 0.0)
            self._largest[self.layer] = max(before, reached) if finite else math.nan
        return (
            result.copy_(result.to(self._dtype))
            if _owns(result, args)
            else result.to(self._dtype).float()
        )


def _owns(result: Tensor, args: Sequence[Any]) -> bool:
    """Whether the function changed its argument in place, so that rounding must, too."""
    return bool(args) and result is args[0]


def check_half_range(largest: Mapping[str, float]) -> None:
    """Refuse a float16 graph whose values come near the end of the range.

    Args:
        largest: of `RoundedSynthesizer`, after it has run.

    Raises:
        ParityError: names the layers; what overflows first makes those after it not finite.
    """
    broken = {n: v for n, v in largest.items() if math.isnan(v) or v > HALF_LIMIT}
    if broken:
        ordered = sorted(broken.items(), key=lambda item: item[0] == _BETWEEN)
        shown = ", ".join(
            f"{name} ({'not finite' if math.isnan(value) else f'{value:,.0f}'})"
            for name, value in ordered[:5]
        )
        raise ParityError(
            f"float16 would overflow: {len(broken)} layers reach more than {HALF_LIMIT:,.0f}, in "
            f"the network's order {shown}"
        )
