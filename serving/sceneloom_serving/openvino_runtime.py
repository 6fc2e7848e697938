"""OpenVINO as a Synthesizer, on the CPU.

The precision is always set: OpenVINO's default on CPUs with bfloat16 is bfloat16. One stream with
all the threads of this process is the latency profile.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from sceneloom.contract import PARAMETER, STYLE_ROWS, Contract
from sceneloom.errors import EngineError, require, said
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.request import tensors
from sceneloom.synthesizer import Synthesizer
from sceneloom_serving.onnx_runtime import usable_cpus
from sceneloom_serving.parity import Precision
from sceneloom_serving.present_classes import present_classes, shorten

# For int8, outside the graph's Q/DQ nodes.
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_EXACT_IDS = 1 << 24


class OpenVinoSynthesizer(Synthesizer):
    """Runs an exported graph with OpenVINO's CPU plugin; threads take turns."""

    def __init__(
        self,
        model: Path,
        *,
        precision: Precision = "fp32",
        max_batch_size: int = 1,
        threads: int | None = None,
        absent_classes: bool = False,
    ) -> None:
        """Load an exported graph with accurate norms, or `int8.onnx` with Q/DQ nodes.

        `threads` None means one per CPU. `absent_classes` computes all planes at the same result
        (`present_classes`), for measurements. Raises MissingDependencyError without openvino,
        EngineError for a file of another origin or a precision that this CPU does not compute.
        """
        require(["openvino"], extra="serve", purpose="running a model with OpenVINO")
        import openvino

        core = openvino.Core()
        if precision == "bf16" and not computes_bfloat16():
            raise EngineError("this CPU computes no bfloat16; OpenVINO would run float32 instead")
        self._model, self._core = model, core
        self._options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads or usable_cpus(),
        }
        try:
            graph = core.read_model(model)
        except RuntimeError as error:
            raise self._cannot_load(error) from None
        metadata = ["framework", PARAMETER]
        if not graph.has_rt_info(metadata):
            raise EngineError(f"{model}: carries no contract; it was not exported by sceneloom")
        contract = Contract.loads(graph.get_rt_info(metadata).astype(str), source=str(model))
        super().__init__(contract, max_batch_size)
        self.engine = f"openvino-{precision}"
        whole = graph.clone()  # the graph as read now runs, whatever the file is later
        schema = None if absent_classes else contract.schema
        self._room = None if schema is None else shorten(graph, schema.channels)
        self._graph = None if self._room is None else whole
        self._request = self._compile(graph)
        self._lock = threading.Lock()  # a request of OpenVINO's refuses a second caller
        self._whole: Any = None

    def _compile(self, graph: Any) -> Any:
        try:
            return self._core.compile_model(graph, "CPU", self._options).create_infer_request()
        except RuntimeError as error:
            raise self._cannot_load(error) from None

    def _cannot_load(self, error: RuntimeError) -> EngineError:
        return EngineError(f"{self._model}: OpenVINO cannot load it ({said(error)})")

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch; see `Synthesizer.run_batch`."""
        if instance_maps is not None:
            instance_maps = _exact_in_float(instance_maps)
        inputs = tensors(label_maps, instance_maps, styles)
        with self._lock:
            request, present = self._request, None
            schema = self.contract.schema
            if self._room is not None and schema is not None:
                present = present_classes(label_maps, schema.channels, self._room)
                if present is None:  # maps of so many classes are rare: loaded at the first one
                    if self._whole is None:
                        self._whole = self._compile(self._graph)
                    request = self._whole
            image: Image = request.infer(inputs | (present or {}))[0]
            return image.copy()  # the next call writes into the same memory


def computes_bfloat16() -> bool:
    """Whether OpenVINO computes bfloat16 on this CPU (AVX-512 BF16, or AMX)."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _exact_in_float(instance_maps: InstanceMap) -> InstanceMap:
    """Renumber ids above 2^24, which collide in OpenVINO's float32, with equal boundaries. 0 to 255
    are rows of a style table, and stay. Negative ids stay negative.
    """
    if instance_maps.min() >= -_EXACT_IDS and instance_maps.max() <= _EXACT_IDS:
        return instance_maps
    rows = np.arange(STYLE_ROWS, dtype=np.int32)
    ids, dense = np.unique(np.concatenate([rows, instance_maps.ravel()]), return_inverse=True)
    dense = dense.ravel()[STYLE_ROWS:] - np.searchsorted(ids, 0)
    renumbered: InstanceMap = dense.reshape(instance_maps.shape).astype(np.int32)
    return renumbered
