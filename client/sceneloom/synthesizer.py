"""The one interface of every engine: the PyTorch generator, ONNX Runtime and the Triton client are
all Synthesizers.

A subclass runs one batch of equal sizes (`run_batch`); checking, padding, style tables, grouping by
size, splitting and keeping order are written here once.
"""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sceneloom.contract import STYLE_ROWS, Contract, precision_of
from sceneloom.errors import InputError
from sceneloom.inputs import check_instance_map, check_label_map
from sceneloom.instances import renumber_instances
from sceneloom.kinds import check_kind
from sceneloom.padding import Padding
from sceneloom.style import default_styles
from sceneloom.text import counted

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from sceneloom.rendering.interfaces import Source
    from sceneloom.rendering.run import RenderRun
    from sceneloom.rendering.settings import RenderSettings

LabelMap = npt.NDArray[np.uint8]
InstanceMap = npt.NDArray[np.int32]
Style = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One picture's inputs as the network takes them: checked, padded, instances renumbered where
    styled.
    """

    label_map: LabelMap
    """uint8 [H, W] at network size."""
    instance_map: InstanceMap | None
    """int32 [H, W] at network size, or None where the model takes none."""
    style: Style | None
    """float32 [256, F], or None where the model takes none."""
    padding: Padding
    """What was added to the caller's map, to be cropped from the picture."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        parts = (self.label_map, self.instance_map, self.style)
        return sum(part.nbytes for part in parts if part is not None)


def prepare(
    contract: Contract,
    label_map: npt.NDArray[Any],
    instance_map: npt.NDArray[Any] | None = None,
    style: npt.NDArray[Any] | None = None,
) -> Request:
    """Check one picture's inputs against the contract and bring them to the form the network takes.

    Args:
        contract: the model's contract.
        label_map: uint8 [H, W], channels as `read_label_map` returns them.
        instance_map: whole numbers [H, W]; needed if the model was trained with boundaries or
            style, and left out where it was not.
        style: float [K, F], row k for the k-th smallest of K instance ids, or the whole table of
            256 rows; None takes the contract's defaults per label.

    Raises:
        MissingInputError: the model wants an instance map and there is none.
        SizeError: sizes differ, or the model does not take this one.
        UnknownLabelError: values that are no channel of the schema.
        TooManyInstancesError: a styled model and more than 256 instances.
        InputError: wrong dtype or rank, or an input that this model does not take.
    """
    check_label_map(contract, label_map)
    height, width = label_map.shape
    network_height, network_width = contract.network_size(height, width)
    padding = Padding(network_height - height, network_width - width)
    instances = check_instance_map(contract, label_map, instance_map)
    table = None
    if contract.style_channels and instances is not None:
        if style is None:
            style = default_styles(contract, label_map, instances)
        instances, ids = renumber_instances(instances, STYLE_ROWS)
        table = _full_table(contract, len(ids), style)
    elif style is not None:
        raise InputError("this model takes no style: it was trained without an encoder")
    return Request(
        label_map=padding.pad(label_map),
        instance_map=None if instances is None else padding.pad(instances),
        style=table,
        padding=padding,
    )


def _full_table(contract: Contract, instances: int, style: npt.NDArray[Any]) -> Style:
    """The caller's rows, checked, in a table of `STYLE_ROWS`."""
    if (
        style.ndim != 2
        or style.dtype.kind not in "fiu"
        or style.shape[1] != contract.style_channels
        or len(style) not in (instances, STYLE_ROWS)  # as many, or a table that is full already
    ):
        raise InputError(
            f"style is float [{counted(instances, 'instance')}, {contract.style_channels}], not "
            f"{style.dtype} {list(style.shape)}"
        )
    if not (np.abs(style) <= np.finfo(np.float32).max).all():
        raise InputError("style holds values that are not finite float32 numbers")
    table = np.zeros((STYLE_ROWS, contract.style_channels), np.float32)
    table[: len(style)] = style
    return table


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
        """Return the synthesizer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
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

    def render(
        self,
        maps: str | Path | Source,
        output: str | Path | None = None,
        *,
        labels: str | None = None,
        instances: str | None = None,
        settings: RenderSettings | None = None,
    ) -> RenderRun:
        """Render a data set, several maps at once.

            for result in synthesizer.render("datasets/cityscapes", "pictures"): ...
            async for result in synthesizer.render("maps.tar"): ...

        `sceneloom render` does the same with several servers, shared memory and shards.

        Args:
            maps: path or URL of a folder, zip file, tar shards or Parquet
                (docs/rendering-formats.md), or an opened source.
            output: folder for the pictures and their manifest, where what is there already is not
                made again; without it the pictures are in the results.
            labels: where the label maps are in `maps`; test_label unless named.
            instances: where the instance maps are; test_inst unless `labels` is named.
            settings: how; requests in flight follow what the engine can use.

        Returns:
            the run: iterate it for one `Rendered`, `Picture`, `Skipped` or `Failed` per map, in the
            order they finish.

        Raises:
            InputError: a place is of a wrong form; others come from the run's first step.
        """
        from sceneloom.rendering.dataset import Maps, Pictures, engine_address, make_plan
        from sceneloom.rendering.run import RenderRun
        from sceneloom.rendering.settings import RenderSettings

        if not hasattr(maps, "left_out"):  # a Source
            check_kind(maps, (str, os.PathLike), "the path or the source of the maps")
        for place in (output, labels, instances):
            if place is not None:
                check_kind(place, (str, os.PathLike), "a path")
        if settings is not None:
            check_kind(settings, RenderSettings, "an object of RenderSettings")
        settings = settings or RenderSettings()
        pictures = None if output is None else Pictures(place=str(output))
        found = Maps(
            place=maps,
            labels=None if labels is None else str(labels),
            instances=None if instances is None else str(instances),
        )
        return RenderRun(make_plan(found, pictures, [engine_address(self, settings)], settings))

    def run_requests(self, batch: Sequence[Request]) -> Image:
        """Run requests that `prepare` made, as one batch.

        Args:
            batch: of equal size, at most `max_batch_size`.

        Returns:
            uint8 [N, H, W, 3], RGB, at network size: not cropped.
        """
        return self.run_batch(
            np.stack([r.label_map for r in batch]),
            None
            if batch[0].instance_map is None
            else np.stack([r.instance_map for r in batch if r.instance_map is not None]),
            None
            if batch[0].style is None
            else np.stack([r.style for r in batch if r.style is not None]),
        )


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
