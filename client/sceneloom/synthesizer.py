"""The one interface of every engine: the PyTorch generator, ONNX Runtime and the Triton client are
all Synthesizers.

A subclass runs one batch of equal sizes (`run_batch`); checking, padding, style tables, grouping by
size, splitting and keeping order are written here once.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sceneloom.contract import Contract, precision_of
from sceneloom.errors import InputError
from sceneloom.kinds import check_kind
from sceneloom.maps import (
    Image,
    InstanceMap,
    LabelMap,
    Style,
)
from sceneloom.request import Request, prepare, stack

if TYPE_CHECKING:
    from typing_extensions import Self


class Synthesizer(abc.ABC):
    """Turns label maps into pictures; use it as a context manager."""

    def __init__(self, contract: Contract, max_batch_size: int = 1) -> None:
        """Keep what every engine has; a subclass calls it once it knows both.

        Args:
            contract: what the model takes and gives.
            max_batch_size: most pictures that `run_batch` takes at once.
        """
        self.contract = contract
        """What the model takes and gives."""
        self.max_batch_size = max_batch_size
        """Most pictures that `run_batch` takes at once."""
        self.engine = ""
        """What runs the model, as RUNTIME-PRECISION: ``openvino-fp32``; empty where unknown."""

    @property
    def precision(self) -> str:
        """What convolutions are computed in: ``fp32``, ``fp16``, ``bf16``, ``int8``; empty where
        unknown.
        """
        return precision_of(self.engine)

    @abc.abstractmethod
    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run the network on one batch of maps at network size, exactly as given.

        Args:
            label_maps: uint8 [N, H, W], channels.
            instance_maps: int32 [N, H, W], or None if the contract has no boundaries.
            styles: float32 [N, 256, F], or None without style.

        Returns:
            uint8 [N, H, W, 3], RGB.
        """

    def close(self) -> None:  # noqa: B027 - most engines have nothing to release
        """Release what the engine holds; calling it twice is fine."""

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
        self,
        label_map: npt.NDArray[Any],
        instance_map: npt.NDArray[Any] | None = None,
        style: npt.NDArray[Any] | None = None,
    ) -> Image:
        """Turn one label map into a picture.

        Args:
            label_map: uint8 [H, W], channels as `read_label_map` returns them.
            instance_map: whole numbers [H, W]; needed if the contract has boundaries.
            style: float [K, F], row k for the k-th smallest instance id; None takes the contract's
                defaults.

        Returns:
            uint8 [H, W, 3], RGB.

        Raises:
            InputError: an input does not fit the contract; nothing was sent.
            ServingError: a server did not answer with a picture.
        """
        return self.synthesize_batch([label_map], [instance_map], [style])[0]

    def synthesize_batch(
        self,
        label_maps: Sequence[npt.NDArray[Any]],
        instance_maps: Sequence[npt.NDArray[Any] | None] | None = None,
        styles: Sequence[npt.NDArray[Any] | None] | None = None,
    ) -> list[Image]:
        """Turn several label maps, of any mixture of sizes, into pictures in the same order.

        Maps of equal network size run together, at most `max_batch_size` at once. All inputs are
        checked before the first one runs.

        Args:
            label_maps: uint8 [H, W] each.
            instance_maps: one per label map, or None if the model takes none.
            styles: one per label map, or None for the defaults.

        Returns:
            uint8 [H, W, 3] RGB each.

        Raises:
            InputError: an input does not fit the contract; nothing was sent.
            ServingError: a server did not answer with a picture.
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
        images: list[Image | None] = [None] * count
        for indices in _groups(requests, self.max_batch_size):
            batch = [requests[i] for i in indices]
            for i, image in zip(indices, self.run_requests(batch), strict=True):
                images[i] = requests[i].padding.crop(image)
        return [image for image in images if image is not None]

    def run_requests(self, batch: Sequence[Request]) -> Image:
        """Run requests that `prepare` made, as one batch.

        Args:
            batch: of equal size, at most `max_batch_size`.

        Returns:
            uint8 [N, H, W, 3], RGB, at network size: not cropped.
        """
        return self.run_batch(*stack(batch))


def _groups(requests: Sequence[Request], largest: int) -> Iterator[list[int]]:
    """Indices of requests that may run together: equal size, at most `largest`, in order of first
    appearance.
    """
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        by_size.setdefault(request.label_map.shape, []).append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), largest):
            yield indices[start : start + largest]
