"""The interface of every engine: the PyTorch generator, ONNX Runtime and the Triton client are
Synthesizers. A model of pictures takes a picture wherever another takes a label map.

A subclass runs one batch of equal sizes (`run_batch`); checks, padding, style tables, grouping by
size and order are here.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from sceneloom.contract import Contract, precision_of
from sceneloom.errors import InputError
from sceneloom.maps import Array, Image, InstanceMap, LabelMap, Style
from sceneloom.request import Request, prepare, stack
from sceneloom.validation import check_kind

if TYPE_CHECKING:
    from typing_extensions import Self


class Synthesizer(abc.ABC):
    """Turns label maps into pictures; use it as a context manager."""

    def __init__(self, contract: Contract, max_batch_size: int = 1) -> None:
        """Keep the common attributes of all engines."""
        self.contract = contract
        """Inputs and outputs of the model."""
        self.max_batch_size = max_batch_size
        """Most pictures in a call of `run_batch`."""
        self.engine = ""
        """Engine, as RUNTIME-PRECISION: ``openvino-fp32``; empty if unknown."""
        self.device_seconds: float | None = None
        """Seconds of the last batch on a GPU, between two events in its stream; None elsewhere."""

    @property
    def precision(self) -> str:
        """Precision of convolutions: ``fp32``, ``fp16``, ``bf16``, ``int8``; empty if unknown."""
        return precision_of(self.engine)

    @abc.abstractmethod
    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run the network on a batch of maps at network size: channels, uint8 [N, H, W] (a model of
        pictures takes these instead, uint8 [N, H, W, 3] RGB); instances, int32 [N, H, W] or None;
        styles, float32 [N, 256, F] or None. Returns uint8 [N, H, W, 3] RGB.
        """

    def close(self) -> None:  # noqa: B027 - most engines have nothing to release
        """Release the engine's resources; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def synthesize(
        self, label_map: Array, instance_map: Array | None = None, style: Array | None = None
    ) -> Image:
        """Turn one label map (or, for a model of pictures, one picture) into a picture, uint8 [H,
        W, 3] RGB.

        The inputs are those of `sceneloom.request.prepare`. Raises InputError if one does not fit
        the contract (nothing was sent), ServingError if a server did not answer with a picture.
        """
        return self.synthesize_batch([label_map], [instance_map], [style])[0]

    def synthesize_batch(
        self,
        label_maps: Sequence[Array],
        instance_maps: Sequence[Array | None] | None = None,
        styles: Sequence[Array | None] | None = None,
    ) -> list[Image]:
        """Turn label maps of any sizes into pictures in the same order; see `synthesize`.

        Maps of equal network size run together, at most `max_batch_size` at once. All inputs are
        checked before the first one runs. Instance maps and styles are one per label map, or None.
        """
        for maps in (label_maps, instance_maps, styles):
            if maps is not None or maps is label_maps:
                check_kind(maps, (Sequence, np.ndarray), "a list with one entry per picture")
        count = len(label_maps)
        instance_maps = [None] * count if instance_maps is None else instance_maps
        styles = [None] * count if styles is None else styles
        if len(instance_maps) != count or len(styles) != count:
            raise InputError(
                f"{count} label maps with {len(instance_maps)} instance maps and {len(styles)} "
                "styles"
            )
        requests = [
            prepare(self.contract, *inputs)
            for inputs in zip(label_maps, instance_maps, styles, strict=True)
        ]
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(requests):
            by_size.setdefault(request.size, []).append(index)
        images: dict[int, Image] = {}
        for indices in by_size.values():
            for start in range(0, len(indices), self.max_batch_size):
                group = indices[start : start + self.max_batch_size]
                batch = self.run_requests([requests[i] for i in group])
                for i, image in zip(group, batch, strict=True):
                    images[i] = requests[i].padding.crop(image)
        return [images[i] for i in range(count)]

    def run_requests(self, batch: Sequence[Request]) -> Image:
        """Run requests of equal size, at most `max_batch_size`, as one batch. The pictures are
        uint8 [N, H, W, 3] RGB at network size, not cropped.
        """
        return self.run_batch(*stack(batch))
