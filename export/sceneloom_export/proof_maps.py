"""The maps that an export is proven and calibrated on: drawn ones, and the user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from sceneloom.contract import Contract
from sceneloom.errors import InputError, SizeError
from sceneloom.file_tree import LeftOut
from sceneloom.maps import OnUnknown, read_instance_map, read_label_map
from sceneloom.pairing import MapPair, pair_maps
from sceneloom.request import Request, prepare
from sceneloom_export.map_kinds import draw_kinds
from sceneloom_export.probe_maps import draw_probe, probe_sizes
from sceneloom_streets import draw_street

CALIBRATION_MAPS = 8
_CALIBRATION_SIZE = _MODERATE_SIZE = (256, 512)
_STREETS = 3
_OF_STREETS = {"cityscapes": False, "cityscapes-markings": True}
"""Schemas that streets are drawn in, and whether they tell lane markings from the road."""
_STREET_SEED = 3_000_000
"""Far from every street that anything was trained or tested on."""


def reference_maps(
    contract: Contract, largest: tuple[int, int], own: list[Request], *, kinds: bool = False
) -> list[Request]:
    """The maps that parity is proven on, the largest last.

    Args:
        contract: of the model, with the sizes it is served at.
        largest: the (height, width) to prove it at, where the contract takes any size.
        own: the user's, in front of the last.
        kinds: add maps of eight kinds, and three streets where the schema is Cityscapes', at a
            moderate size: what a fast precision is proven on.

    Returns:
        shapes of every kind at small sizes, or at all that the contract names; then one map at the
        largest: a street where the schema is Cityscapes', whose large even regions are what
        inaccurate norms fail on.
    """
    sizes = probe_sizes(contract)
    last = max(sizes, key=lambda s: s[0] * s[1])
    if contract.sizes is None:
        last = contract.network_size(*largest)
    probes = [draw_probe(contract, *size, seed) for seed, size in enumerate(sizes)]
    more = _kinds(contract, largest) if kinds else []
    return [*probes, *more, *own, draw_map(contract, last, len(sizes))]


def _kinds(contract: Contract, largest: tuple[int, int]) -> list[Request]:
    if contract.sizes is not None:
        size = min(contract.sizes, key=lambda s: s[0] * s[1])
    else:
        moderate = [min(*sides) for sides in zip(largest, _MODERATE_SIZE, strict=True)]
        size = contract.network_size(*(max(side, contract.min_side) for side in moderate))
    streets = range(_STREETS) if contract.schema.name in _OF_STREETS else range(0)
    return [
        *draw_kinds(contract, *size, seed=2000),
        *(draw_map(contract, size, 200 + number) for number in streets),
    ]


def calibration_maps(contract: Contract, own: list[Request]) -> list[Request]:
    """The maps that ranges of int8 are found on: the user's own, or else drawn ones."""
    if own:
        return own[:CALIBRATION_MAPS]
    side = 2 * contract.min_side
    size = contract.network_size(max(_CALIBRATION_SIZE[0], side), max(_CALIBRATION_SIZE[1], side))
    return [draw_map(contract, size, 100 + number) for number in range(CALIBRATION_MAPS)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnMaps:
    """The first maps of a user's folder."""

    requests: list[Request]
    """As the network takes them."""
    found: int
    """How many maps the folder has."""
    left_out: Sequence[LeftOut]
    """What else lies in it."""


def read_own_maps(
    contract: Contract, folder: Path, most: int, *, unknown: OnUnknown = "error"
) -> OwnMaps:
    """Read the first maps of a folder, in `test_label` and `test_inst` or side by side.

    Args:
        contract: of the model.
        folder: as `sceneloom render` takes it.
        most: how many are read.
        unknown: what to do with label ids that the schema does not have.

    Raises:
        InputError: there are none, or one is broken; the text names its file.
        SizeError: one has to be padded; parity is measured on whole pictures.
    """
    labels, instances = folder / "test_label", folder / "test_inst"
    pairs, left_out = pair_maps(
        labels if labels.is_dir() else folder,
        instances if instances.is_dir() else folder,
        training_ids=contract.schema.has_training_ids,
    )
    requests = list(_read(contract, pairs[:most], unknown))
    return OwnMaps(requests=requests, found=len(pairs), left_out=left_out)


def _read(contract: Contract, pairs: list[MapPair], unknown: OnUnknown) -> Iterator[Request]:
    for pair in pairs:
        label_map = read_label_map(pair.label, contract.schema, unknown=unknown)
        needs = contract.boundaries or contract.style_channels
        instance_map = read_instance_map(pair.instance) if needs and pair.instance else None
        try:
            request = prepare(contract, label_map, instance_map)
        except InputError as error:
            raise InputError(f"{pair.label}: {error}") from None
        if request.padding:
            raise SizeError(
                f"{pair.label}: is no multiple of {contract.size_multiple} on each side"
            )
        yield request


def draw_map(contract: Contract, size: tuple[int, int], seed: int) -> Request:
    """Draw a map that nothing was trained on: a street where the schema is Cityscapes'.

    Args:
        contract: of the model.
        size: (height, width), as the network takes it.
        seed: equal seeds draw equal maps.
    """
    if contract.schema.name not in _OF_STREETS:
        return draw_probe(contract, *size, seed)
    markings = _OF_STREETS[contract.schema.name]
    street = draw_street(_STREET_SEED + seed, *size, markings=markings)
    needs = contract.boundaries or contract.style_channels
    return prepare(contract, street.label_map, street.instance_map if needs else None)
