"""Opening the data set that the settings name.

::

    from sceneloom_training.data import DataSettings, open_data_set

    data = open_data_set(DataSettings(layout="cityscapes", root=Path("cityscapes"), split="train"))
    sample = data.read(0)
"""

from __future__ import annotations

from sceneloom.errors import InputError
from sceneloom.schema import LabelSchema, builtin_schemas, load_schema
from sceneloom_training.data.ade20k import open_ade20k
from sceneloom_training.data.celebamask import open_celebamask
from sceneloom_training.data.cityscapes import open_cityscapes
from sceneloom_training.data.helen import open_helen
from sceneloom_training.data.nyu import open_nyu
from sceneloom_training.data.paired import open_paired
from sceneloom_training.data.pix2pixhd import open_pix2pixhd
from sceneloom_training.data.sample import DataSet
from sceneloom_training.data.settings import DataSettings
from sceneloom_training.data.sizes import parse_size
from sceneloom_training.data.streets import StreetDataSet


def open_data_set(settings: DataSettings) -> DataSet:
    """Find a data set's files, and which belong together; reads none of the pictures.

    Raises:
        DataSetError: a folder is missing or empty, the split is not one of the layout's, or a file
            has no partner; the text names it and what was expected.
        InputError: the label schema does not exist, or its ids are not the layout's.
        SchemaError: the label schema's file is not valid.
    """
    root, split, unknown = settings.root, settings.split, settings.unknown
    if settings.layout == "streets":
        return _open_streets(settings)
    assert root is not None  # checked by the settings
    if settings.layout == "paired":
        return open_paired(root, split)
    schema, instances = _schema(settings), settings.instances
    match settings.layout:
        case "pix2pixhd":
            return open_pix2pixhd(root, split, schema=schema, unknown=unknown, instances=instances)
        case "cityscapes":
            return open_cityscapes(root, split, schema=schema, unknown=unknown, instances=instances)
        case "ade20k":
            return open_ade20k(root, split, schema=schema, unknown=unknown, instances=instances)
        case "nyu":
            return open_nyu(root, split, schema=schema, unknown=unknown, instances=instances)
        case "celebamask":
            return open_celebamask(root, split, schema=schema, unknown=unknown)
        case "helen":
            return open_helen(root, split, schema=schema, unknown=unknown)


def _open_streets(settings: DataSettings) -> StreetDataSet:
    height, width = parse_size(settings.streets_size, of="streets_size")
    return StreetDataSet(
        first_seed=settings.streets_seed,
        count=settings.streets_count,
        height=height,
        width=width,
        schema=_schema(settings),
        unknown=settings.unknown,
        instances=settings.instances,
    )


def _schema(settings: DataSettings) -> LabelSchema:
    """The label schema; a built-in one must be of the ids that the layout's files hold.

    Another data set's ids would mostly pass as ids, and train a network on the wrong names.
    """
    own = {
        "pix2pixhd": ("cityscapes", *builtin_schemas()),
        "cityscapes": ("cityscapes", "cityscapes19", "cityscapes-eval"),
        "ade20k": ("ade20k",),
        "nyu": ("nyu40",),
        "celebamask": ("celebamask",),
        "helen": ("helen",),
        "streets": ("cityscapes", "cityscapes-eval", "cityscapes-markings"),
    }[settings.layout]
    name = settings.labels or own[0]
    if name in builtin_schemas() and name not in own:
        raise InputError(
            f"labels is {name!r}, whose ids are not those of {settings.layout}; it takes "
            f"{' or '.join(own)}, or the path of a JSON file of your own"
        )
    return load_schema(name)
