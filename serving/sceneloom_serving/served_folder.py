"""The folder that the embedded server sees: the models of an export bundle under plain names,
whatever the bundle's own is, nothing else that lies there, and the engine that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sceneloom.contract import (
    DIFFERENCE_PARAMETER,
    ENGINE_PARAMETER,
    FAST_PARAMETER,
    MODEL_NAME,
)
from sceneloom.errors import ServerStartError
from sceneloom.triton.encoded import DECODE_MODEL, ENCODE_MODEL, ENCODED_MODEL, ENCODED_MODELS
from sceneloom_serving.choice import what_is_known
from sceneloom_serving.onnx_runtime import MODEL_FILE
from sceneloom_serving.verify import bundle_hash

_FILES = tuple(
    f"{MODEL_NAME}/{name}"
    for name in ("config.pbtxt", "1/model.py", f"1/{MODEL_FILE}", "1/weights.bin")
)
_ENCODED_FILES = (
    f"{ENCODED_MODEL}/config.pbtxt",
    *(
        f"{m}/{name}"
        for m in (DECODE_MODEL, ENCODE_MODEL)
        for name in ("config.pbtxt", "1/model.py")
    ),
)


def check_files(repository: Path, *, encoded: bool) -> None:
    """Check that what the server loads is there: Triton waits for ever for a model.py that is not.

    Args:
        repository: an export bundle.
        encoded: whether the encoded path is wanted.

    Raises:
        ServerStartError: a file is missing or cannot be read.
    """
    for name in (*_FILES, *(_ENCODED_FILES if encoded else ())):
        path = repository / name
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            missing = "missing" if isinstance(error, FileNotFoundError) else error.strerror
            hint = "; an older version exported it, export again" if name in _ENCODED_FILES else ""
            raise ServerStartError(f"{path}: {missing}{hint}") from None


def lay_out(repository: Path, folder: Path, *, engine: str | None, encoded: bool) -> None:
    """Make the folder.

    Args:
        repository: an export bundle.
        folder: where; it does not exist yet.
        engine: what is to run the model, or None for the one in its configuration.
        encoded: whether the encoded path is wanted.
    """
    for model in (MODEL_NAME, *(ENCODED_MODELS if encoded else ())):
        # Each file alone: Triton's Python backend writes bytecode beside model.py, which would
        # stay in the bundle, and runs bytecode that lies there.
        (folder / model / "1").mkdir(parents=True)
        source = (repository / model).resolve()
        for name in ("config.pbtxt", *(f"1/{file.name}" for file in (source / "1").iterdir())):
            if (source / name).is_file() and not name.endswith(".pyc"):
                (folder / model / name).symlink_to(source / name)
    if engine is not None:
        known = what_is_known(repository, bundle_hash(repository), engine)
        values = {
            ENGINE_PARAMETER: engine,
            DIFFERENCE_PARAMETER: known.difference,
            FAST_PARAMETER: known.fast,
        }
        for model in (MODEL_NAME, ENCODED_MODEL) if encoded else (MODEL_NAME,):
            _set_parameters(folder / model / "config.pbtxt", values)


def _set_parameters(path: Path, values: Mapping[str, str]) -> None:
    config = text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())
    for name, value in values.items():
        config.parameters[name].string_value = value
    path.unlink()  # the link, not the bundle's file
    path.write_text(text_format.MessageToString(config), "utf-8")
