"""Import of published pix2pixHD generators: `latest_net_G.pth` -> a checkpoint bundle. Names and
shapes give the architecture: the global generator is the flat `model` (with its last convolution
only without enhancers), enhancer n `model<n>_1` (down) and `model<n>_2` (blocks, up, and in the
last one the last convolution).
"""

from __future__ import annotations

import dataclasses
import itertools
import lzma
import re
import shlex
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError
from sceneloom.schema import LabelSchema
from sceneloom.text import counted, one_line
from sceneloom_training.checkpoint import load_tensors
from sceneloom_training.networks import Generator, GeneratorArchitecture, load_weights

PUBLISHED_STYLE_CHANNELS = 3
"""Features of the published encoder unless `--feat_num` said otherwise."""

_LISTED = 8

_KEY = re.compile(
    r"(model(?:\d{1,3}_[12])?)\.(\d{1,5})\.(?:conv_block\.(\d{1,5})\.)?(weight|bias|running_mean|running_var|num_batches_tracked)"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """A published generator, rebuilt."""

    generator: Generator
    contract: Contract
    notes: tuple[str, ...]
    """Decisions and omissions, for the user."""


def load_published(path: Path) -> dict[str, Tensor]:
    """Read a published state dict, float32 on the CPU. Raises CheckpointError."""
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; name the file in it, such as latest_net_G.pth")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        state = load_tensors(path)
    except Exception as error:  # pickle, zip, tar, EOF and runtime errors of a damaged file
        forbidden = re.search(r"(?:GLOBAL|Unsupported class) (\S+)", str(error))
        if forbidden:
            raise CheckpointError(
                f"{path}: refused, it holds {forbidden[1]} where only tensors may be; "
                "nothing in it was run"
            ) from None
        said = str(error).split("WeightsUnpickler error:")[-1].strip() or type(error).__name__
        raise CheckpointError(
            _another_kind(path)
            or f"{path}: not a readable PyTorch file ({one_line(said.splitlines()[0])}); it may be "
            "damaged or cut short: compare its size with the publisher's, and download it again"
        ) from None
    if not isinstance(state, dict) or not state:
        empty = "an empty" if isinstance(state, dict) else "one"
        raise CheckpointError(
            f"{path}: holds {empty} {type(state).__name__}, not a generator's state dict, which "
            "torch.save(generator.state_dict(), FILE) writes"
        )
    plain = {str(k).removeprefix("module."): v for k, v in state.items()}
    if len(plain) < len(state):
        raise CheckpointError(f"{path}: names layers twice, with and without 'module.'")
    # A dict first: it may be the state dict.
    for name, value in sorted(plain.items(), key=lambda item: not isinstance(item[1], dict)):
        if isinstance(value, dict):
            alone = (
                "import sys, torch; torch.save(torch.load(sys.argv[1], map_location='cpu', "
                "weights_only=True)[sys.argv[2]], sys.argv[3])"
            )
            words = (str(path), name, str(path.with_name(f"{path.stem}-alone.pth")))
            raise CheckpointError(
                f"{path}: {name!r} is a dict; where it is the generator's state dict, save it "
                f'alone: python -c "{alone}" {shlex.join(words)}'
            )
        strided = isinstance(value, Tensor) and value.layout == torch.strided
        if not strided or value.is_quantized or value.is_meta:
            raise CheckpointError(
                f"{path}: no state dict of a generator: {name!r} is no plain tensor"
            )
    return {k: v.float() if v.is_floating_point() else v for k, v in plain.items()}


def _another_kind(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if not start:
        return f"{path}: the file is empty; download it again"
    if start.startswith(b"version https://git-lfs"):
        return f"{path}: a pointer of Git LFS, not the checkpoint; git lfs pull fetches it"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"{path}: a web page, not a checkpoint; its download went wrong"
    try:
        with tarfile.open(path) as archive:
            names = list(itertools.islice((member.name for member in archive), _LISTED))
        kind, unpack = "tar", f"tar -xf {shlex.quote(str(path))}"
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError):
        try:
            with zipfile.ZipFile(path) as zipped:
                names = zipped.namelist()[:_LISTED]
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return None
        if any(name.endswith("data.pkl") for name in names):
            return None
        kind, unpack = "zip", f"unzip {shlex.quote(str(path))}"
    if {"storages", "tensors", "pickle"} <= set(names):
        again = (
            "import sys, torch; torch.save(torch.load(sys.argv[1], map_location='cpu', "
            "weights_only=False), sys.argv[2])"
        )
        fresh = path.with_name(f"{path.stem}-new.pth")
        return (
            f"{path}: in PyTorch's format of before 2017, which is read only by running what is in "
            "it; where you trust the file, save it again once: "
            f'python -c "{again}" {shlex.quote(str(path))} {shlex.quote(str(fresh))}'
        )
    held = ", ".join(map(ascii, names)) or "nothing"
    return (
        f"{path}: a {kind} archive that holds {held}, not a checkpoint; unpack it ({unpack}) and "
        "give the file inside it"
    )


def import_published(
    path: Path, schema: LabelSchema | None, *, style_channels: int | None = None
) -> Imported:
    """Rebuild a published generator (`latest_net_G.pth`), trained with a label schema, or (None)
    with pictures in their place. The input channels beyond the labels are none, the boundary map
    (1), or that and the published encoder's three style features (4); any other number of them is
    `style_channels`. Beyond a picture's three they are none or the boundary map. Raises
    CheckpointError.
    """
    state = load_published(path)
    architecture, dropped = _derive(state, str(path))
    flat = not architecture.global_blocks and not architecture.enhancers
    if flat and architecture.input_channels == 3:
        raise CheckpointError(
            f"{path}: a feature encoder, which has no residual blocks and takes pictures; give the "
            "generator, latest_net_G.pth, and this file as --encoder"
        )
    notes = []
    grey = architecture.output_channels == 1
    if grey:
        # The same weights three times give the same values three times: grey, as RGB.
        architecture = dataclasses.replace(architecture, output_channels=3)
        head = dict(published_names(architecture))["head.1.weight"].removesuffix(".weight")
        for kind in ("weight", "bias"):
            name = f"{head}.{kind}"
            if name in state and state[name].ndim:
                state[name] = state[name].repeat_interleave(3, 0)
        notes.append(
            "gives grey pictures, one channel; its last convolution was repeated, so that the "
            "bundle gives them as RGB (sceneloom render --grey writes grey files)"
        )
    elif architecture.output_channels != 3:
        raise CheckpointError(
            f"{path}: gives {counted(architecture.output_channels, 'channel')}; a generator of "
            "pictures gives 3 (RGB) or 1 (grey), of 8 bits each: neither 16-bit output nor other "
            "channels are served"
        )
    boundaries, style_channels = _split_inputs(
        architecture.input_channels, schema, style_channels, str(path)
    )
    names = dict(published_names(architecture))
    known = set(names.values())
    if missing := [theirs for theirs in names.values() if theirs not in state]:
        raise CheckpointError(
            f"{path}: {len(missing)} layers are missing, the first is {missing[0]!r}"
        )
    if odd := [k for k in state if k not in known and k.endswith((".weight", ".bias"))]:
        raise CheckpointError(f"{path}: {odd[0]!r} has no place in this architecture")
    with torch.device("meta"):
        wanted = Generator(architecture).state_dict()
    for ours, tensor in wanted.items():
        weights = state[names[ours]]
        if weights.shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {names[ours]} is {list(weights.shape)}; this architecture needs "
                f"{list(tensor.shape)}"
            )
        if not weights.is_floating_point():
            raise CheckpointError(f"{path}: {names[ours]} is {weights.dtype}, not a float")
        if not torch.isfinite(weights).all():
            raise CheckpointError(f"{path}: {names[ours]} holds values that are not finite")
    generator = load_weights(architecture, {ours: state[theirs] for ours, theirs in names.items()})
    assert isinstance(generator, Generator)
    if dropped:
        notes.append(
            f"left out {counted(dropped, 'running statistic')} of InstanceNorm, which the "
            "published network never used"
        )
    contract = Contract(
        kind="picture" if schema is None else "labels",
        schema=schema,
        boundaries=boundaries,
        style_channels=style_channels,
        size_multiple=architecture.size_multiple,
        grey=grey,
    )
    return Imported(generator=generator, contract=contract, notes=tuple(notes))


def _split_inputs(
    channels: int, schema: LabelSchema | None, style_channels: int | None, source: str
) -> tuple[bool, int]:
    """Whether the boundary map is among the input channels, and the number of style features."""
    if schema is None:
        if channels not in (3, 4) or style_channels:
            raise CheckpointError(
                f"{source}: the network has {counted(channels, 'input channel')}; a picture "
                "explains 3, at most 1 is the boundary map, and style features beside pictures are "
                "not served. A model of label maps is imported with --labels"
            )
        return channels == 4, 0
    left = channels - schema.channels
    if style_channels is None:
        style_channels = PUBLISHED_STYLE_CHANNELS if left == 1 + PUBLISHED_STYLE_CHANNELS else 0
    if style_channels < 0 or left - style_channels not in (0, 1):
        raise CheckpointError(
            f"{source}: the network has {counted(channels, 'input channel')}; schema {schema.name} "
            f"explains {schema.channels} by its labels, at most 1 is the boundary map and "
            f"{style_channels} are style features. "
            "Name the label schema it was trained with, or the number of its style features"
        )
    return left == style_channels + 1, style_channels


def _derive(state: dict[str, Tensor], source: str) -> tuple[GeneratorArchitecture, int]:
    """Architecture, and number of running statistics left out."""
    # One group a published nn.Sequential: plain layers and residual blocks, by index.
    plain: dict[str, dict[int, Tensor]] = defaultdict(dict)
    blocks: dict[str, set[int]] = defaultdict(set)
    dropped = 0
    for key, tensor in state.items():
        match = _KEY.fullmatch(key)
        if match is None:
            of_discriminator = re.match(r"scale\d+_layer\d+\.|layer\d+\.\d+\.", key)
            raise CheckpointError(
                f"{source}: {key!r} is not a layer of a pix2pixHD generator"
                + " (of a discriminator; name latest_net_G.pth)" * bool(of_discriminator)
            )
        group, index, inner, kind = match[1], int(match[2]), match[3], match[4]
        if kind in ("running_mean", "running_var", "num_batches_tracked"):
            dropped += 1
            continue
        if kind == "weight" and tensor.ndim != 4:
            raise CheckpointError(
                f"{source}: {key!r} is {list(tensor.shape)}, a norm with weights (BatchNorm or an "
                "affine InstanceNorm); the published generators have InstanceNorm without"
            )
        if inner is not None:
            blocks[group].add(index)
        elif kind == "weight":
            plain[group][index] = tensor
    groups = plain.keys() | blocks.keys()
    if "model" not in groups:
        raise CheckpointError(f"{source}: no layers called model.*; no pix2pixHD generator")
    numbers = sorted({int(name[5:].split("_")[0]) for name in groups if name != "model"})
    enhancers = len(numbers)
    expected = {f"model{n}_{part}" for n in range(1, enhancers + 1) for part in (1, 2)} | {"model"}
    if groups != expected:
        missing, odd = sorted(expected - groups), sorted(groups - expected)
        raise CheckpointError(
            f"{source}: {enhancers} enhancers need the layers {', '.join(sorted(expected))}; "
            f"missing: {', '.join(missing) or 'none'}; without a place: {', '.join(odd) or 'none'}"
        )
    trunk = plain["model"]
    convs = sorted(trunk)
    if not convs or convs[0] != 1:
        raise CheckpointError(f"{source}: model.1, the first convolution, is missing")
    body = len(convs) - (1 if enhancers else 2)
    if body < 0 or body % 2:
        raise CheckpointError(
            f"{source}: the global generator has {counted(len(convs), 'convolution')} outside its "
            "blocks; it should have as many up as down"
        )
    stem = trunk[1]
    enhancer_blocks = {len(blocks[f"model{n}_2"]) for n in numbers}
    if len(enhancer_blocks) > 1:
        raise CheckpointError(
            f"{source}: the enhancers differ in blocks: {sorted(enhancer_blocks)}"
        )
    last = plain[f"model{enhancers}_2"] if enhancers else trunk
    if not last:
        raise CheckpointError(f"{source}: model{enhancers}_2 has no convolution outside its blocks")
    try:
        architecture = GeneratorArchitecture(
            input_channels=stem.shape[1],
            output_channels=last[max(last)].shape[0],
            ngf=stem.shape[0] // 2**enhancers,
            global_downsamplings=body // 2,
            global_blocks=len(blocks["model"]),
            enhancers=enhancers,
            enhancer_blocks=enhancer_blocks.pop() if enhancer_blocks else 3,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    return architecture, dropped


def published_names(a: GeneratorArchitecture) -> Iterator[tuple[str, str]]:
    """Pairs of (our name, published name) for every weight and bias of an architecture."""
    trunk = "global_generator"
    plain = {f"{trunk}.stem.1": "model.1"}
    index = 4  # after pad, conv, norm, ReLU
    for i in range(a.global_downsamplings):
        plain[f"{trunk}.downs.{i}.0"] = f"model.{index + 3 * i}"
    index += 3 * a.global_downsamplings
    for i in range(a.global_blocks):
        # inside a block: pad, conv, norm, ReLU, pad, conv, norm
        plain[f"{trunk}.blocks.{i}.conv1"] = f"model.{index + i}.conv_block.1"
        plain[f"{trunk}.blocks.{i}.conv2"] = f"model.{index + i}.conv_block.5"
    index += a.global_blocks
    for i in range(a.global_downsamplings):
        plain[f"{trunk}.ups.{i}.0"] = f"model.{index + 3 * i}"
    last = f"model.{index + 3 * a.global_downsamplings + 1}"
    for n in range(1, a.enhancers + 1):
        ours, theirs = f"enhancers.{n - 1}", f"model{n}"
        plain[f"{ours}.stem.1"] = f"{theirs}_1.1"
        plain[f"{ours}.down.0"] = f"{theirs}_1.4"
        for i in range(a.enhancer_blocks):
            plain[f"{ours}.blocks.{i}.conv1"] = f"{theirs}_2.{i}.conv_block.1"
            plain[f"{ours}.blocks.{i}.conv2"] = f"{theirs}_2.{i}.conv_block.5"
        plain[f"{ours}.up.0"] = f"{theirs}_2.{a.enhancer_blocks}"
        last = f"{theirs}_2.{a.enhancer_blocks + 4}"
    plain["head.1"] = last
    for ours, theirs in plain.items():
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", f"{theirs}.{kind}"
