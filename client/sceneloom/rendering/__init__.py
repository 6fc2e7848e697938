"""Rendering whole data sets: maps are read, rendered by servers and written as pictures, and a
manifest knows what is done.

    run.py           a run that is iterated; begin here
    pipeline.py      what happens to a map, in order
    servers.py       which server is asked, and when not; connections.py is one of them
    manifest.py      what is done; store.py puts pictures and rows in their places
    folder.py tar.py zip.py parquet.py    a format each; datasets.py chooses one by the location
    listeners.py metrics.py               progress, log lines, summary, Prometheus
    ray_engine.py                         the same with Ray
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sceneloom.kinds import check_kind

if TYPE_CHECKING:
    from pathlib import Path

    from sceneloom.rendering.items import Source
    from sceneloom.rendering.run import RenderRun
    from sceneloom.rendering.settings import RenderSettings
    from sceneloom.synthesizer import Synthesizer


def render(
    synthesizer: Synthesizer,
    maps: str | Path | Source,
    output: str | Path | None = None,
    *,
    labels: str | None = None,
    instances: str | None = None,
    settings: RenderSettings | None = None,
) -> RenderRun:
    """Render a data set, several maps at once.

        for result in render(synthesizer, "datasets/cityscapes", "pictures"): ...
        async for result in render(synthesizer, "maps.tar"): ...

    `sceneloom render` does the same with several servers, shared memory and shards.

    Args:
        synthesizer: the client or engine; it stays open.
        maps: path or URL of a folder, zip file, tar shards or Parquet (docs/rendering-formats.md),
            or an opened source.
        output: folder for the pictures and their manifest; pictures that it has already are not
            made again. Without it the pictures are in the results.
        labels: where the label maps are in `maps`; test_label unless named.
        instances: where the instance maps are; test_inst unless `labels` is named.
        settings: how; requests in flight follow what the engine can use.

    Returns:
        the run: iterate it for one `Rendered`, `Picture`, `Skipped` or `Failed` per map, in the
        order they finish.

    Raises:
        InputError: a location is of a wrong form; others come from the run's first step.
    """
    from sceneloom.rendering.plan import Maps, Pictures, engine_address, make_plan
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
    return RenderRun(make_plan(found, pictures, [engine_address(synthesizer)], settings))
