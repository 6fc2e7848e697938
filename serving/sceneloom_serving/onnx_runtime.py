"""ONNX Runtime as a Synthesizer: on the CPU or on CUDA."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Literal

from sceneloom.contract import OUTPUT_IMAGE, PARAMETER, Contract
from sceneloom.errors import EngineError, ExportError, MissingDependencyError, require, said
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.request import tensors
from sceneloom.synthesizer import Synthesizer
from sceneloom_serving.bundle import FP16_FILE, INT8_FILE
from sceneloom_serving.gpu import Stream

Provider = Literal["cpu", "cuda"]
_PRECISIONS = {FP16_FILE: "fp16", INT8_FILE: "int8"}  # the other graphs are float32
_PROVIDERS: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "cudnn_conv_use_max_workspace": "1",
    "use_tf32": "0",
}
"""Options of the CUDA provider, as the variant `onnxruntime` has them in Triton: the exhaustive
search, the default, takes seconds at every new size, and TF32, the default, is not float32.
"""


class OnnxRuntimeSynthesizer(Synthesizer):
    """Runs an exported graph with ONNX Runtime, in the precision of the graph."""

    def __init__(
        self,
        model: Path,
        *,
        provider: Provider = "cpu",
        max_batch_size: int = 1,
        threads: int | None = None,
    ) -> None:
        """Load an exported graph, on a GPU also `fp16.onnx`; `threads` None means one per CPU.

        Raises ExportError for a file of another origin, EngineError and MissingDependencyError
        without the provider.
        """
        check_provider(provider)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cpus()
        options.log_severity_level = 3
        given: dict[str, str] = {}
        if provider == "cuda":
            # A stream of ours, so that events in it time the GPU.
            self._stream = Stream()
            given = {"device_id": "0", **CUDA_OPTIONS}
            given["user_compute_stream"] = str(self._stream.handle)
        # The Python in Triton takes file names for ASCII; ONNX Runtime wants the text.
        path = os.fsencode(model).decode("utf-8", "surrogateescape")
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=[(_PROVIDERS[provider], given)]
            )
        except Exception as error:  # onnxruntime's own classes differ between builds
            raise ExportError(f"{model}: ONNX Runtime cannot load it ({said(error)})") from None
        if self._session.get_providers()[0] != _PROVIDERS[provider]:
            raise EngineError(
                f"ONNX Runtime cannot use its {provider} provider here and would run on the CPU"
            )
        metadata = self._session.get_modelmeta().custom_metadata_map
        if PARAMETER not in metadata:
            raise ExportError(f"{model}: carries no contract; it was not exported by sceneloom")
        super().__init__(Contract.loads(metadata[PARAMETER], source=str(model)), max_batch_size)
        self._on_gpu = provider != "cpu"
        runtime = f"onnxruntime-{provider}" if self._on_gpu else "onnxruntime"
        self.engine = f"{runtime}-{_PRECISIONS.get(model.name, 'fp32')}"

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch; see `Synthesizer.run_batch`."""
        feeds = tensors(label_maps, instance_maps, styles)
        if not self._on_gpu:
            image: Image = self._session.run([OUTPUT_IMAGE], feeds)[0]
            return image
        import onnxruntime

        # Uploads run on the provider's own stream; the picture comes back once.
        binding = self._session.io_binding()
        for name, array in feeds.items():
            uploaded = onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
            binding.bind_ortvalue_input(name, uploaded)
        binding.bind_output(OUTPUT_IMAGE, "cuda", 0)
        self._stream.start_clock()
        self._session.run_with_iobinding(binding)
        self.device_seconds = self._stream.stop_clock()
        bound: Image = binding.copy_outputs_to_cpu()[0]
        return bound


def check_provider(provider: Provider) -> None:
    """Check the installed build; raises EngineError without it, MissingDependencyError."""
    require(["onnxruntime"], extra="serve", purpose="running an exported model")
    import onnxruntime

    has_it = _PROVIDERS[provider] in onnxruntime.get_available_providers()
    if has_it and (provider == "cpu" or not _is_overwritten("onnxruntime-gpu")):
        return
    again = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
    if _is_overwritten("onnxruntime-gpu"):
        raise MissingDependencyError(
            f"onnxruntime was installed over files of onnxruntime-gpu: {again}"
        )
    raise EngineError(f"this build of ONNX Runtime has no {provider} provider: {again}")


def _is_overwritten(package: str) -> bool:
    """Whether files of an installed package have another size than it came with, or are gone."""
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(
        file.size is not None
        and (not (path := Path(str(file.locate()))).is_file() or path.stat().st_size != file.size)
        for file in files
        if file.parts[0] == "onnxruntime"
    )


def usable_cpus() -> int:
    """Count of CPUs that this process may use, or of all if the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
