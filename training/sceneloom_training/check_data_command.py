"""`sceneloom check-data`."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom import progress
from sceneloom.errors import InputError
from sceneloom.schema import NO_CHANNEL, LabelSchema
from sceneloom.text import counted, printable
from sceneloom_training import train_command
from sceneloom_training.data import find_samples
from sceneloom_training.data.opening import examine_headers
from sceneloom_training.data.survey import Size, Survey, survey
from sceneloom_training.progress_bar import track
from sceneloom_training.settings import TrainSettings

expand_arguments = partial(train_command.expand_arguments, usage="check-data CONFIG.toml")


@progress.shown()
def main(
    config: Annotated[Path, Positional, arg(metavar="CONFIG.toml")],
    *,
    settings: Annotated[TrainSettings, arg(name="")],
) -> int:
    """Read every sample of a training's data once, and list all that is wrong, the classes, the
    sizes and the instances. The exit code is 0 if nothing is wrong, else 1.

    Args:
        config: the TOML file of sceneloom train; flags overrule it.
        settings: everything else, as for sceneloom train.
    """
    return check_data(settings)


def check_data(settings: TrainSettings) -> int:
    """Print what `main` says. Return the exit code."""
    from sceneloom_training.assembly import check_instances, size_limits
    from sceneloom_training.batches import check_large_enough

    data = find_samples(settings.data)
    _, notes = examine_headers(data, settings.data.root)
    multiple, smallest = size_limits(settings)
    settings.geometry.check_multiple(multiple)

    def size_after(name: str, size: Size) -> Size:
        try:
            after = settings.geometry.size_after(size, multiple=multiple)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        check_large_enough(after, smallest, name)
        return after

    found = survey(data, size_after, track=partial(track, description="reading"))
    wrong = found.wrong
    for check in (
        lambda: check_instances(settings, has_instances=data.has_instances),
        lambda: settings.trained_on(len(data)),
    ):
        try:
            check()
        except InputError as error:
            wrong.append(str(error))
    if settings.optimizer.batch > 1 and len(found.trained) > 1:
        wrong.append(
            f"one batch would hold pictures of {_sizes(found.trained)}: choose a geometry with a "
            "fixed size, or optimizer.batch 1"
        )
    if found.sizes:
        print(f"{counted(len(data), 'sample')}: {_sizes(found.sizes)}")
        print(f"in training: {_sizes(found.trained)}")
    if data.schema is not None:
        _print_classes(found, data.schema)
    if found.instances:
        fewest, most = min(found.instances), max(found.instances)
        print(f"{sum(found.instances):,} instances, {fewest} to {most} in a sample")
    elif data.schema is not None:
        print("no instance maps")
    for note in notes:
        print(printable(note))
    for sentence in wrong:
        print(f"wrong: {printable(sentence)}")
    if found.unknown:
        ids = ", ".join(f"{i} ({counted(n, 'pixel')})" for i, n in sorted(found.unknown.items()))
        print(f"ids outside the schema, in all: {ids}")
    if not wrong:
        print("nothing is wrong")
        return 0
    print(
        f"{counted(len(wrong), 'fault')}; --data.skip-broken trains without samples that have one"
    )
    return 1


def _sizes(sizes: Counter[Size]) -> str:
    listed = [f"{width}x{height} ({count:,})" for (height, width), count in sizes.most_common()]
    return f"{', '.join(listed)}, width x height (samples)"


def _print_classes(found: Survey, schema: LabelSchema) -> None:
    """Print pixels, share and samples of each class, the most frequent first."""
    total = max(int(found.pixels.sum()), 1)
    names = [label.name for label in schema.labels]
    if schema.channels <= NO_CHANNEL:
        names += [""] * (NO_CHANNEL - len(names)) + ["(no class)"]
    print(f"{'class':24}{'pixels':>16}{'per cent':>10}{'samples':>10}")
    for channel in sorted(range(len(names)), key=lambda c: -found.pixels[c]):
        if pixels := int(found.pixels[channel]):
            share, samples = 100 * pixels / total, found.samples[channel]
            print(f"{printable(names[channel]):24}{pixels:>16,}{share:>10.4f}{samples:>10,}")
    if never := [label.name for n, label in enumerate(schema.labels) if not found.pixels[n]]:
        print(printable(f"never: {', '.join(never)}"))
