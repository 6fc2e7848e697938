"""`sceneloom styles show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import InputError, SchemaError
from sceneloom.map_reading import MapReader, MapReading
from sceneloom.maps import OnUnknown
from sceneloom.style import StyleOf, check_takes_style, clusters_by_seed, list_instances
from sceneloom.text import parse_json, printable, reason

_FILES = ("model.json", "report.json")


def main(
    bundle: Annotated[Path | None, Positional, arg(metavar="BUNDLE")] = None,
    *,
    url: Annotated[str | None, arg(metavar="HOST:PORT")] = None,
    model: str = MODEL_NAME,
    map: Annotated[Path | None, arg(metavar="FILE")] = None,
    instances: Annotated[Path | None, arg(metavar="FILE")] = None,
    style_seed: int = 0,
    style_of: StyleOf = "things",
    key: Annotated[str | None, arg(metavar="KEY")] = None,
    unknown: OnUnknown = "error",
    reading: Annotated[MapReading, OmitArgPrefixes] = MapReading(),  # noqa: B008 - frozen
) -> int:
    """List the styles of a model: the clusters of each class, the most frequent first. With --map,
    list the instances of a map, and the cluster that a seed draws for each.

    Args:
        bundle: folder of a checkpoint bundle or of an export.
        url: a server's address, in place of BUNDLE.
        model: name of the served model.
        map: a label map.
        instances: its instance map; without one --boundaries takes the label map's.
        style_seed: the seed, as in sceneloom render; of look K, the first seed and K.
        style_of: draw for things or for all instances, as in sceneloom render.
        key: the map's name in sceneloom render, on which its draw depends; by default the file's
            name without ending. Empty for --style-per dataset.
        unknown: refuse label ids that the model's schema lacks, or read them as unlabelled.
        reading: how the maps are read.
    """
    contract = _contract(bundle, url, model)
    check_takes_style(contract)
    if map is None and instances is None:
        _print_table(("label", "class", "cluster", "distance", "style"), _clusters(contract))
        print(
            "distance: from the class's default, which instances have without seed"
            if contract.style_clusters
            else "no clusters to draw from; sceneloom styles CHECKPOINT computes them"
        )
        return 0
    if map is None:
        raise InputError("--instances FILE belongs to a label map: name it with --map FILE")
    reader = MapReader(contract.schema, reading, unknown=unknown)
    label_map = reader.label_map(map)
    if instances is None:
        instance_map = reader.edges(label_map, map)
    else:
        instance_map = reader.instance_map(instances)
    if instance_map is None:
        raise InputError(
            "name the instance map with --instances, or take the label map's edges with "
            "--boundaries labels"
        )
    drawn: dict[int, int] = {}
    if contract.style_clusters:
        key = map.stem if key is None else key
        drawn = clusters_by_seed(
            contract, label_map, instance_map, style_seed, key=key, of=style_of
        )
    head = ("instance", "class", "pixels", "left", "top", "width", "height", "cluster")
    rows = []
    for one in list_instances(contract, label_map, instance_map):
        box = (one.pixels, one.left, one.top, one.width, one.height)
        count = len(contract.style_clusters.get(-1 if one.label_id is None else one.label_id, ()))
        cluster = f"{drawn[one.id]} of {count}" if one.id in drawn else f"default ({count})"
        rows.append((str(one.id), one.name, *(str(number) for number in box), cluster))
    _print_table(head, rows)
    return 0


def _contract(bundle: Path | None, url: str | None, model: str) -> Contract:
    if (bundle is None) == (url is None):
        raise InputError("name a model: BUNDLE, or --url HOST:PORT of a server")
    if url is not None:
        from sceneloom.triton.client import TritonSynthesizer

        with TritonSynthesizer(url, model=model) as synthesizer:
            return synthesizer.contract
    assert bundle is not None
    file = next((bundle / name for name in _FILES if (bundle / name).is_file()), None)
    if file is None:
        if not bundle.is_dir():
            raise InputError(
                f"{bundle}: no such folder; name a checkpoint bundle, such as RUN/model, or an "
                "export bundle"
            )
        hint = "; its checkpoint is in the folder model" if (bundle / "model").is_dir() else ""
        raise InputError(f"{bundle}: holds neither {' nor '.join(_FILES)}{hint}")
    try:
        document = parse_json(file.read_bytes(), source=str(file), error=SchemaError)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({reason(error)})") from None
    found = document.get("contract") if isinstance(document, dict) else None
    if found is None:
        raise InputError(f"{file}: has no contract; a model of pictures takes no style")
    return Contract.from_json(found, source=str(file))


def _clusters(contract: Contract) -> list[tuple[str, ...]]:
    """Rows of the defaults and the clusters of all classes."""
    rows: list[tuple[str, ...]] = []
    assert contract.schema is not None  # a model of pictures takes no style
    for label in contract.schema.labels:
        default = contract.style_defaults.get(label.id)
        centres = contract.style_clusters.get(label.id, ())
        if default is None and not centres:
            continue
        start = np.array(default or (0.0,) * contract.style_channels)
        named = [("default", start), *((str(n), np.array(c)) for n, c in enumerate(centres))]
        for name, style in named:
            distance = "" if name == "default" else f"{np.linalg.norm(style - start):.3g}"
            numbers = " ".join(f"{number:.3g}" for number in style)
            rows.append((str(label.id), label.name, name, distance, numbers))
    return rows


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    safe = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in safe) for column in range(len(head))]
    for row in safe:
        print("  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())
