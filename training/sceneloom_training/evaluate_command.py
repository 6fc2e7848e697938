"""`sceneloom evaluate`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, arg

from sceneloom import progress
from sceneloom.contract import MODEL_NAME
from sceneloom.errors import InputError, require
from sceneloom.map_reading import MapReading, check_boundaries
from sceneloom.style import StyleChoice, StyleOf, style_chooser
from sceneloom.text import counted, printable
from sceneloom.triton.client import TritonSynthesizer
from sceneloom.triton.transport import Timeouts
from sceneloom_training.data import DataSettings, open_examined
from sceneloom_training.data.opening import describe_left_out
from sceneloom_training.evaluation.evaluate import EvaluationSettings
from sceneloom_training.evaluation.features import FeaturesKind
from sceneloom_training.evaluation.scores import SCORES
from sceneloom_training.progress_bar import track
from sceneloom_training.settings import Device, DeviceChoice

if TYPE_CHECKING:
    from sceneloom.schema import LabelSchema
    from sceneloom.synthesizer import Synthesizer
    from sceneloom_training.evaluation.evaluate import Evaluation
    from sceneloom_training.evaluation.sources import PictureSource

_Described = dict[str, Any]
_MAX_ROWS = 24  # the page's JPEG ends at 65500 pixels


@progress.shown()
def main(
    *,
    out: Annotated[Path, arg(metavar="DIR")],
    segmenter: Annotated[Path, arg(metavar="PATH")],
    data: DataSettings,
    segmenter_labels: Annotated[str, arg(metavar="NAME")] = "",
    pictures: Annotated[Path | None, arg(metavar="DIR")] = None,
    checkpoint: Annotated[Path | None, arg(metavar="DIR")] = None,
    url: Annotated[str | None, arg(metavar="HOST:PORT")] = None,
    model: str = MODEL_NAME,
    model_version: Annotated[str, arg(metavar="N")] = "",
    timeout: float = 120.0,
    style_seed: int | None = None,
    style_of: StyleOf = "things",
    features: Annotated[Path | None, arg(metavar="PATH")] = None,
    features_kind: FeaturesKind = "dinov2",
    rows: int = 6,
    device: DeviceChoice = "auto",
    settings: Annotated[
        EvaluationSettings, OmitArgPrefixes, arg(name="evaluation")
    ] = EvaluationSettings(),  # noqa: B008 - frozen
) -> int:
    """Segment synthesized pictures and the real photographs alike, and score both against the label
    maps; without --pictures, --checkpoint or --url, the photographs alone.

    Args:
        out: folder for evaluation.json, counts.npz, sheet.png and index.html.
        segmenter: the segmentation network: a folder of sceneloom train-segmenter or of
            transformers, or a Python file that makes one.
        data: the photographs, with label maps.
        segmenter_labels: label schema of a segmenter without its own: a built-in name or the path
            of a JSON file.
        pictures: folder of pictures, named like the samples.
        checkpoint: folder of a checkpoint bundle to render with.
        url: HOST:PORT of the gRPC port of a Triton server to render with.
        model: name of the served model.
        model_version: Triton's number of its version; the latest without it.
        timeout: seconds to wait for one answer of the server.
        style_seed: draw styles for instances from the clusters of their classes, for models with
            style; without it, every class has its default.
        style_of: with a seed, draw for the instances of countable classes, or for all.
        features: network for FID and KID. dinov2: a folder of transformers. inception: a file of
            weights for torch-fidelity. efficientnet-lite0: the file of sceneloom weights.
        features_kind: kind of that network.
        rows: samples on the sheet, 0 for no sheet.
        device: device of the networks; auto takes a GPU if one exists.
        settings: sizes, number of samples, and the bootstrap.
    """
    style = StyleChoice(style_seed=style_seed, style_of=style_of)
    sources = {"--pictures": pictures, "--checkpoint": checkpoint, "--url": url}
    named = [flag for flag, value in sources.items() if value is not None]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} exclude each other; choose one")
    if style_seed is not None and checkpoint is None and url is None:
        raise InputError("--style-seed needs a model to render with: --checkpoint or --url")
    if features is not None and not named:
        raise InputError(
            "--features compares pictures with photographs; name the pictures with --pictures, "
            "--checkpoint or --url"
        )
    if not 0 <= rows <= _MAX_ROWS:
        raise InputError(f"rows is {rows}; it is from 0 to {_MAX_ROWS}")
    require(["torch", "safetensors", "jinja2"], extra="train", purpose="evaluating pictures")
    from sceneloom_training.evaluation import report
    from sceneloom_training.evaluation.evaluate import evaluate, schema_of
    from sceneloom_training.evaluation.features import load_features
    from sceneloom_training.evaluation.segmenter import load_segmenter
    from sceneloom_training.process import choose_device

    where = choose_device(device, "device")
    samples, notes = open_examined(data)
    schema = schema_of(samples)
    _say(notes)
    with progress.stage("load the networks"):
        network = load_segmenter(segmenter, labels=segmenter_labels, device=device)
        vectors = load_features(features, features_kind, device=where) if features else None
        server = partial(
            TritonSynthesizer, model=model, version=model_version, timeouts=Timeouts(infer=timeout)
        )
        synthesizer, described = _open_model(checkpoint, url, server, where, settings.batch)
    if pictures is not None:
        described = {"kind": "folder", "name": _last(pictures)}
    elif synthesizer is not None:
        described["style_seed"] = style_seed
        described["style_of"] = None if style_seed is None else style_of
    with (
        _source(pictures, synthesizer, schema, style, data) as source,
        report.evaluation_folder(out) as fresh,  # refused now, not hours later
    ):
        show = partial(track, description="evaluating")
        found = evaluate(
            samples, network, source, settings, features=vectors, rows=rows, track=show
        )
        with progress.stage("draw the intervals and write the report"):
            of_data = _describe(data, schema)
            if samples.incomplete:
                of_data["samples_left_out"] = len(samples.incomplete)
            report.write_evaluation(fresh, found, network, of_data, described)
    _report(found, described["name"])
    print(printable(f"wrote {out}: open {out / 'index.html'}"))
    return 0


def _open_model(
    checkpoint: Path | None,
    url: str | None,
    connect: Callable[[str], TritonSynthesizer],
    device: Device,
    batch: int,
) -> tuple[Synthesizer | None, _Described]:
    from sceneloom_training.checkpoint import load_checkpoint
    from sceneloom_training.torch_synthesizer import TorchSynthesizer

    synthesizer: Synthesizer
    if checkpoint is not None:
        loaded = load_checkpoint(checkpoint)
        synthesizer = TorchSynthesizer(
            loaded.generator, loaded.contract, device=device, max_batch_size=batch
        )
        described: _Described = {"kind": "checkpoint", "name": _last(checkpoint)}
        described["weights_sha256"] = loaded.weights_hash
    elif url is not None:
        synthesizer = served = connect(url)
        described = {"kind": "url", "name": f"{served.model} at {url}"}
        described["model_version"] = served.version
        described["bundle_hash"] = synthesizer.contract.bundle_hash
    else:
        return None, {"kind": "none", "name": "photographs alone"}
    engine = {"engine": synthesizer.engine, "precision": synthesizer.precision}
    return synthesizer, described | engine


@contextlib.contextmanager
def _source(
    folder: Path | None,
    synthesizer: Synthesizer | None,
    schema: LabelSchema,
    style: StyleChoice,
    reading: MapReading,
) -> Iterator[PictureSource | None]:
    """Open the pictures to evaluate, None for the photographs alone. The end closes a model."""
    from sceneloom_training.evaluation.sources import FolderPictures, SynthesizedPictures

    if folder is not None:
        found = FolderPictures(folder)
        _say(describe_left_out(found.left_out, folder))
        yield found
    elif synthesizer is not None:
        with synthesizer:
            check_boundaries(reading, synthesizer.contract)
            choose = style_chooser(synthesizer.contract, style)
            yield SynthesizedPictures(synthesizer, schema, choose)
    else:
        yield None


def _describe(data: DataSettings, schema: LabelSchema) -> _Described:
    described: _Described = {
        "layout": data.layout,
        "root": None if data.root is None else _last(data.root),
        "split": data.split,
        "labels": schema.name,
    }
    if data.layout == "streets":
        fields = ("streets_seed", "streets_count", "streets_size")
        described |= {name: getattr(data, name) for name in fields}
    return described


def _last(path: Path) -> str:
    # Reports are passed on: they name no place of this machine.
    return printable(path.resolve().name)


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        print(printable(note), file=sys.stderr)


def _report(found: Evaluation, name: str) -> None:
    columns = {"pictures": found.scores, "oracle": found.oracle_scores, "gap": found.gap}
    shown = {title: scores for title, scores in columns.items() if scores is not None}
    if found.scores is None:
        print(
            f"{counted(len(found.keys), 'photograph')}; no pictures were given: this is the oracle "
            "alone"
        )
    else:
        print(f"{counted(len(found.keys), 'picture')}: {printable(name)}")
    print(f"{'per cent':24}" + "".join(f"{title:>26}" for title in shown))
    for field, title in SCORES.items():
        row = ""
        for scores in shown.values():
            x = getattr(scores, field)
            text = f"{100 * x.value:.2f} [{100 * x.low:.2f}, {100 * x.high:.2f}]"
            row += f"{text:>26}"
        print(f"{title:24}{row}")
    if found.ignored:
        print(f"ignored, unknown to the segmenter: {printable(', '.join(found.ignored))}")
    if found.distances is not None:
        d = found.distances
        print(f"FID {d.fid:.3f}, KID {d.kid:.5f} by {d.network}, weights {d.weights_sha256[:12]}")
