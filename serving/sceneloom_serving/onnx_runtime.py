"""ONNX Runtime as a Synthesizer, on the CPU."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_STYLE,
    OUTPUT_IMAGE,
    PARAMETER,
    Contract,
)
from sceneloom.errors import ExportError, MissingDependencyError
from sceneloom.extras import require
from sceneloom.synthesizer import Image, InstanceMap, LabelMap, Style, Synthesizer

MODEL_FILE = "onnxruntime.onnx"
"""The graph that ONNX Runtime runs, in a version's folder of an export bundle."""


class OnnxRuntimeSynthesizer(Synthesizer):
    """Runs an exported `model.onnx` with ONNX Runtime's CPU provider in float32."""

    def __init__(self, model: Path, *, max_batch_size: int = 1, threads: int | None = None) -> None:
        """Load a model.

        Args:
            model: an exported graph, which carries its contract: `MODEL_FILE` of an export bundle.
            max_batch_size: most pictures at once.
            threads: threads for one picture; None takes the CPUs this process may use.

        Raises:
            MissingDependencyError: onnxruntime is not installed, or two builds of it overwrite each
                other.
            ExportError: the file is not a model that SceneLoom exported.
        """
        require(["onnxruntime"], extra="serve", purpose="running an exported model")
        _check_single_build()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _usable_cpus()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own classes differ between builds
            raise ExportError(
                f"{model}: ONNX Runtime cannot load it ({str(error)[:300]})"
            ) from None
        metadata = self._session.get_modelmeta().custom_metadata_map
        if PARAMETER not in metadata:
            raise ExportError(f"{model}: carries no contract; it was not exported by sceneloom")
        super().__init__(Contract.loads(metadata[PARAMETER], source=str(model)), max_batch_size)

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch; see `Synthesizer.run_batch`."""
        feeds = {INPUT_LABELS: label_maps, INPUT_INSTANCES: instance_maps, INPUT_STYLE: styles}
        image: Image = self._session.run(
            [OUTPUT_IMAGE], {k: v for k, v in feeds.items() if v is not None}
        )[0]
        return image


def _usable_cpus() -> int:
    # Not every system can say which CPUs a process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_single_build() -> None:
    builds = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        builds.append(name)
    if len(builds) > 1:
        raise MissingDependencyError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install the one you want"
        )
