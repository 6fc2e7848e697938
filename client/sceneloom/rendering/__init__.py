"""Render whole data sets: maps in, pictures from servers out, and a manifest of them.

run.py           a run, as an iterator; begin here
pipeline.py      a map's way, in order; retries.py decides which requests are sent again
servers.py       the choice of a server; connections.py has an open connection
manifest.py      the rows of finished maps, and the store of pictures and rows
folder.py tar.py zip.py parquet.py    a format each; datasets.py chooses one by the location
training_set.py  maps copied beside their pictures, as a data set for training
listeners.py metrics.py               progress, log lines, summary, Prometheus
ray_engine.py                         a run on Ray
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sceneloom.validation import check_kind

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
        output: folder for the pictures and their manifest; unchanged pictures in it are not made
            again. Without it the results hold the pictures.
        labels: the label maps in `maps`; default test_label.
        instances: the instance maps; default test_inst, without `labels`.
        settings: how to render.

    Returns:
        the run: iterate it for one `Rendered`, `Picture`, `Skipped` or `Failed` per map, in the
        order they finish.

    Raises InputError if a location is of a wrong form; the run's first step raises other errors.
    """
    from sceneloom.rendering.plan import Maps, Pictures, engine_address, make_plan
    from sceneloom.rendering.run import RenderRun
    from sceneloom.rendering.settings import RenderSettings

    if not hasattr(maps, "left_out"):  # a Source
        check_kind(maps, (str, os.PathLike), "the path or the source of the maps")
    for path in (output, labels, instances):
        if path is not None:
            check_kind(path, (str, os.PathLike), "a path")
    if settings is not None:
        check_kind(settings, RenderSettings, "an object of RenderSettings")
    settings = settings or RenderSettings()
    pictures = None if output is None else Pictures(location=str(output))
    found = Maps(
        location=maps,
        labels=None if labels is None else str(labels),
        instances=None if instances is None else str(instances),
    )
    return RenderRun(make_plan(found, pictures, [engine_address(synthesizer)], settings))
