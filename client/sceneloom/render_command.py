"""`sceneloom render`: progress, summary and exit code around `sceneloom.render`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom.contract import MODEL_NAME
from sceneloom.errors import InputError
from sceneloom.render import Failed, Rendered, RenderSettings, find_pairs, render_maps
from sceneloom.transport import Timeouts
from sceneloom.triton_client import TritonSynthesizer

_LISTED = 20


def main(
    input: Annotated[Path, Positional, arg(metavar="INPUT")],
    output: Annotated[Path, Positional, arg(metavar="OUTPUT")],
    *,
    url: str = "127.0.0.1:8001",
    model: str = MODEL_NAME,
    labels: Annotated[Path | None, arg(metavar="DIR")] = None,
    instances: Annotated[Path | None, arg(metavar="DIR")] = None,
    timeout: float = 120.0,
    settings: Annotated[RenderSettings, OmitArgPrefixes] = RenderSettings(),  # noqa: B008 - frozen
) -> int:
    """Render a folder of label maps through a Triton server; exit code 0 only if every map was
    rendered.

    Args:
        input: folder of the data set, in pix2pixHD's layout (test_label/ and test_inst/) unless
            --labels and --instances say otherwise.
        output: folder for the pictures, each named after its label map; pictures of equal name are
            replaced.
        url: HOST:PORT of the server's gRPC port.
        model: name of the served model.
        labels: folder of label maps, inside INPUT or absolute; test_label unless named.
        instances: folder of instance maps, inside INPUT or absolute; test_inst unless --labels is
            named.
        timeout: seconds to wait for one picture.
        settings: how to render.
    """
    with TritonSynthesizer(url, model=model, timeouts=Timeouts(infer=timeout)) as synthesizer:
        wants_instances = synthesizer.contract.boundaries or synthesizer.contract.style_channels > 0
        label_folder, instance_folder = _folders(input, labels, instances, wants_instances)
        if output.resolve().is_relative_to(label_folder.resolve()):
            raise InputError(
                f"{output}: lies in the folder of label maps, where the pictures would be taken "
                "for maps the next time; choose another folder"
            )
        pairs = find_pairs(label_folder, instance_folder)
        start = time.perf_counter()
        with _progress() as progress:
            task = progress.add_task("rendering", total=len(pairs), rate="")

            def advance(result: Rendered | Failed) -> None:
                done = progress.tasks[task].completed + 1
                rate = done / (time.perf_counter() - start)
                progress.update(task, completed=done, rate=f"{rate:.2f} maps/s")

            results = render_maps(synthesizer, pairs, output, settings, on_result=advance)
    return _report(results, time.perf_counter() - start, output)


def _folders(
    root: Path, labels: Path | None, instances: Path | None, wants_instances: bool
) -> tuple[Path, Path | None]:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    label_folder = root / (labels or "test_label")
    if not label_folder.is_dir():
        there = sorted(path.name for path in root.iterdir() if path.is_dir())
        raise InputError(
            f"{label_folder}: no such folder; name the folder of label maps with --labels"
            + (f" ({root} holds {', '.join(there[:8])})" if there else " (. for the folder itself)")
        )
    if not wants_instances:
        return label_folder, None
    if instances is None and labels is not None:
        raise InputError("this model wants instance maps: name their folder with --instances")
    return label_folder, root / (instances or "test_inst")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _report(results: list[Rendered | Failed], seconds: float, output: Path) -> int:
    rendered = [result for result in results if isinstance(result, Rendered)]
    failed = [result for result in results if isinstance(result, Failed)]
    for failure in failed[:_LISTED]:
        print(f"failed: {failure.reason}", file=sys.stderr)
    if len(failed) > _LISTED:
        kinds = Counter(type(failure.error).__name__ for failure in failed)
        print(
            f"... {len(failed)} in all: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}",
            file=sys.stderr,
        )
    padded = sum(bool(result.padding) for result in rendered)
    print(
        f"rendered {len(rendered)} of {len(results)} maps in {seconds:.1f} s "
        f"({len(rendered) / seconds:.2f} maps/s) to {output}"
        + (f"; {padded} were padded to the model's next size and cropped back" if padded else "")
    )
    return 1 if failed else 0
