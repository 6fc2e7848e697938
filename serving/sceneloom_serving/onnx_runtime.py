"""ONNX Runtime as a Synthesizer: on the CPU or on CUDA."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from pathlib import Path
from typing import Literal

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_STYLE,
    OUTPUT_IMAGE,
    PARAMETER,
    Contract,
)
from sceneloom.errors import EngineError, ExportError, MissingDependencyError, require
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.synthesizer import Synthesizer
from sceneloom.text import one_line
from sceneloom_serving.bundle import FP16_FILE, INT8_FILE

Provider = Literal["cpu", "cuda"]
_PRECISIONS = {FP16_FILE: "fp16", INT8_FILE: "int8"}
"""Of the graphs of an export bundle that are not float32."""
_PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}


class OnnxRuntimeSynthesizer(Synthesizer):
    """Runs an exported graph with ONNX Runtime, in the precision that the graph says."""

    def __init__(
        self,
        model: Path,
        *,
        provider: Provider = "cpu",
        max_batch_size: int = 1,
        threads: int | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: an exported graph, which carries its contract: `MODEL_FILE` of an export bundle,
                on a GPU also `fp16.onnx`.
            provider: cpu; or cuda, where inputs and output are bound to memory of the GPU.
            max_batch_size: most pictures at once.
            threads: threads for one picture on the CPU; None takes the CPUs this process may use.

        Raises:
            MissingDependencyError: onnxruntime is not installed, or two builds of it overwrite each
                other.
            EngineError: this build or machine does not have the provider.
            ExportError: the file is not a model that SceneLoom exported.
        """
        check_provider(provider)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cpus()
        options.log_severity_level = 3
        # What is float32 is float32: TF32 is that provider's default on newer GPUs.
        given = {"device_id": 0, "use_tf32": 0} if provider == "cuda" else {}
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=[(_PROVIDERS[provider], given)]
            )
        except Exception as error:  # onnxruntime's own classes differ between builds
            raise ExportError(
                f"{model}: ONNX Runtime cannot load it ({one_line(str(error))})"
            ) from None
        if self._session.get_providers()[0] != _PROVIDERS[provider]:
            raise EngineError(
                f"ONNX Runtime cannot use its {provider} provider here and would run on the CPU"
            )
        metadata = self._session.get_modelmeta().custom_metadata_map
        if PARAMETER not in metadata:
            raise ExportError(f"{model}: carries no contract; it was not exported by sceneloom")
        super().__init__(Contract.loads(metadata[PARAMETER], source=str(model)), max_batch_size)
        where = "" if provider == "cpu" else f"-{provider}"
        self.engine = f"onnxruntime{where}-{_PRECISIONS.get(model.name, 'fp32')}"
        self._on_gpu = provider != "cpu"

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch; see `Synthesizer.run_batch`."""
        named = {INPUT_LABELS: label_maps, INPUT_INSTANCES: instance_maps, INPUT_STYLE: styles}
        feeds = {name: array for name, array in named.items() if array is not None}
        if not self._on_gpu:
            image: Image = self._session.run([OUTPUT_IMAGE], feeds)[0]
            return image
        import onnxruntime

        # Uploads are made on the provider's own stream, and the picture is brought back once.
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(
                name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
            )
        binding.bind_output(OUTPUT_IMAGE, "cuda", 0)
        self._session.run_with_iobinding(binding)
        bound: Image = binding.copy_outputs_to_cpu()[0]
        return bound


def check_provider(provider: Provider) -> None:
    """Check that the installed ONNX Runtime was built with a provider.

    Raises:
        MissingDependencyError: onnxruntime is not installed, or two builds of it overwrite each
            other.
        EngineError: it was not.
    """
    require(["onnxruntime"], extra="serve", purpose="running an exported model")
    builds = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            builds.append(importlib.metadata.distribution(name))
    if len(builds) > 1:
        raise MissingDependencyError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install the one you want"
        )
    import onnxruntime

    if _PROVIDERS[provider] not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this build of ONNX Runtime has no {provider} provider: pip uninstall -y onnxruntime, "
            "then pip install onnxruntime-gpu"
        )


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    # Not every system can say which.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
