"""From the body of a request to a picture's inputs: the client package's readers, field by field.

A multipart form has the files `label` and, where the model takes one, `instances`; a PNG body is
the label map alone. Options are form fields or parameters of the URL.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, cast, get_args

import numpy as np
from annotated_types import Interval
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.requests import Request as HttpRequest

from sceneloom.contract import Contract
from sceneloom.errors import InputError, MissingInputError, SceneLoomError
from sceneloom.map_reading import Boundaries, MapReader, MapReading, check_boundaries
from sceneloom.maps import Array, OnUnknown
from sceneloom.pictures import EncodedFormat
from sceneloom.png import SIGNATURE
from sceneloom.request import Request, prepare
from sceneloom.schema import FileKey
from sceneloom.style import DrawnStyles, StyleChoice, StyleOf
from sceneloom.text import parse_json, printable
from sceneloom.validation import checked, read_json
from sceneloom_gateway.problems import Problem, problem_of

MEDIA: dict[EncodedFormat, str] = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
"""Format -> its media type, the preferred one first."""
FILES = ("label", "instances")
OPTIONS = ("boundaries", "quality", "style", "style_of", "style_rows", "style_seed", "unknown")
_MOST_FIELDS = 8
_MOST_FIELD_BYTES = 64 << 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upload:
    """The parts of a request's body and URL, not decoded yet."""

    label: bytes
    label_name: str
    instances: bytes | None = None
    instances_name: str = ""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def quality(self) -> int:
        """Quality of jpg and webp, 1 to 100."""
        quality = whole_number(self.options, "quality", 95)
        if not 1 <= quality <= 100:
            raise Problem(422, f"quality is {quality}; it is from 1 to 100", field="quality")
        return quality

    def request(self, contract: Contract, max_pixels: int) -> Request:
        """Decode and check the maps; raises Problem that names the field at fault."""
        options = self.options
        boundaries = options.get("boundaries", "instances")
        with _field("boundaries"):
            reading = MapReading(boundaries=cast(Boundaries, boundaries))
            check_boundaries(reading, contract)
        unknown = options.get("unknown", "error")
        if unknown not in get_args(OnUnknown):
            choices = " or ".join(get_args(OnUnknown))
            raise Problem(422, f"unknown is {unknown[:40]!r}; it is {choices}", field="unknown")
        with _field("unknown"):
            reader = MapReader(
                contract.schema, reading, unknown=cast(OnUnknown, unknown), max_pixels=max_pixels
            )
        with _field("label"):
            label_map = reader.label_map(self.label, name=self.label_name)
        instances = None
        with _field("instances"):
            if contract.wants_instances:
                if self.instances is not None:
                    instances = reader.instance_map(self.instances, name=self.instances_name)
                elif boundaries == "instances":
                    raise MissingInputError(
                        "this model wants an instance map beside the label map: send it as the "
                        "field instances, or take the edges of the labels with boundaries=labels"
                    )
                else:
                    instances = reader.edges(label_map, self.label, name=self.label_name)
            elif self.instances is not None:
                raise InputError("this model takes no instance map; leave the field out")
        style: Array | None = None
        with _field("style_rows"):
            if "style_rows" in options:
                if not {"style", "style_of", "style_seed"}.isdisjoint(options):
                    raise InputError("style_rows stands in place of the other fields of styles")
                style = _style_rows(options["style_rows"])
        named = next((name for name in ("style", "style_seed", "style_of") if name in options), "")
        with _field(named):
            if named:
                choose = DrawnStyles(contract, _style_choice(options))
                assert instances is not None  # a styled model wants instances
                choose.found_in(instances)
                choose.check_used("the map has no instances")
                style = choose("", label_map, instances)
        with _field("label"):
            return prepare(contract, label_map, instances, style)


async def read_upload(request: HttpRequest) -> Upload:
    """Read the body of a request; raises Problem for another media type or a wrong form."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    options: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        _add_option(options, name, value)
    if media == "image/png":
        body = await request.body()
        if not body.startswith(SIGNATURE):
            raise Problem(415, "the body is not a PNG file", field="label")
        return Upload(label=body, label_name="label", options=options)
    if media != "multipart/form-data":
        raise Problem(
            415,
            f"the content type is {media or 'not given'}; send a form (curl -F label=@map.png) or "
            "a PNG file as image/png",
            headers={"Accept-Post": "multipart/form-data, image/png"},
        )
    files: dict[str, tuple[bytes, str]] = {}
    try:
        form = request.form(
            max_files=_MOST_FIELDS, max_fields=_MOST_FIELDS, max_part_size=_MOST_FIELD_BYTES
        )
        async with form as parts:
            for name, part in parts.multi_items():
                if isinstance(part, UploadFile):
                    if name not in FILES or name in files:
                        raise unknown_field(name, FILES, twice=name in files)
                    files[name] = (await part.read(), f"{name} ({part.filename})")
                elif name in FILES:
                    raise Problem(
                        400, f"{name} is a text; send a file (curl -F {name}=@map.png)", field=name
                    )
                else:
                    _add_option(options, name, part)
    except (FormParserError, UnicodeDecodeError) as error:
        raise Problem(400, f"the form cannot be read ({error})") from None
    if "label" not in files:
        raise Problem(400, "the form has no file label (curl -F label=@map.png)", field="label")
    label, label_name = files["label"]
    instances, instances_name = files.get("instances", (None, ""))
    return Upload(
        label=label,
        label_name=label_name,
        instances=instances,
        instances_name=instances_name,
        options=options,
    )


def choose_format(accept: str) -> EncodedFormat:
    """The format of the highest weight in an Accept header (RFC 9110), jpg among equals; raises
    Problem if it takes none.
    """
    weights: dict[str, float] = {}
    for entry in accept.lower().split(",") if accept.strip() else ["*/*"]:
        media, *parameters = (part.strip() for part in entry.split(";"))
        words = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            weights[media] = float(words)
        except ValueError:
            raise Problem(400, f"the weight {words[:40]!r} in Accept is no number") from None

    def weight(format: EncodedFormat) -> float:
        return next((weights[m] for m in (MEDIA[format], "image/*", "*/*") if m in weights), 0.0)

    best = max(MEDIA, key=weight)
    if weight(best) <= 0:
        raise Problem(406, f"Accept takes none of {', '.join(MEDIA.values())}")
    return best


@contextlib.contextmanager
def _field(name: str) -> Iterator[None]:
    """Errors inside are about this form field."""
    try:
        yield
    except SceneLoomError as error:
        raise problem_of(error, name) from None


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Style:
    style: dict[FileKey, Annotated[int, Interval(ge=0)]]
    """Instance id -> cluster of its class."""


def _style_rows(words: str) -> Array:
    """Styles, float [K, F], row k for the k-th smallest instance id."""
    rows = read_json(list[list[float]], words, source="style_rows")
    if len({len(row) for row in rows}) != 1:
        raise InputError("style_rows holds rows of different lengths, or none")
    return np.array(rows)


def _style_choice(options: Mapping[str, str]) -> StyleChoice:
    clusters: dict[int, int] = {}
    if "style" in options:
        parsed = parse_json(options["style"], source="style", error=InputError)
        clusters = read_json(_Style, {"style": parsed}, source="style").style
    return StyleChoice(
        style_seed=whole_number(options, "style_seed", 0) if "style_seed" in options else None,
        style_of=cast(StyleOf, options.get("style_of", "things")),
        style_clusters=clusters,
    )


def whole_number(options: Mapping[str, str], name: str, default: int) -> int:
    """An option that is a whole number; raises Problem."""
    words = options.get(name, str(default))
    if not re.fullmatch(r"-?[0-9]{1,18}", words, re.ASCII):
        raise Problem(422, f"{name} is {words[:40]!r}; it is a whole number", field=name)
    return int(words)


def _add_option(options: dict[str, str], name: str, value: str) -> None:
    if name not in OPTIONS or name in options:
        raise unknown_field(name, (*FILES, *OPTIONS), twice=name in options)
    options[name] = value


def unknown_field(name: str, known: Sequence[str], *, twice: bool) -> Problem:
    """The problem of a field that does not exist, or stands twice."""
    if twice:
        return Problem(400, f"{name} is given twice", field=name)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return Problem(400, f"no field {printable(name[:40])!r}; {hint}", field=name[:40])
