"""AOTInductor as a Synthesizer: the network that PyTorch compiled for one size, on the CPU or an
NVIDIA GPU, without its Python.

The only module of this package that imports torch, and only where a package is opened.
"""

from __future__ import annotations

import io
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np

from sceneloom.errors import EngineError, PlanRefusedError, SizeError, require, said
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.request import tensors
from sceneloom.synthesizer import Synthesizer
from sceneloom_serving.gpu import driver_version
from sceneloom_serving.plan_record import TENSOR_TYPES, Machine, read_record, verified_plan

_INSTRUCTIONS = re.compile(
    r"(mmx|sse|ssse|avx|amx|fma|bmi|f16c|popcnt|movbe|abm|lzcnt|aes|vaes|gfni|pclmul|vpclmul|sha_ni"
    r"|adx|rdrand|rdseed|fsgsbase|clwb|clflushopt|xsave|prfchw|3dnowprefetch|cx16|lahf_lm)\w*"
)
"""Flags of /proc/cpuinfo that tell of instructions a compiler may use; kernels add others."""


class AotiSynthesizer(Synthesizer):
    """Runs the package that `sceneloom engine --runtime aoti` built."""

    def __init__(self, package: Path, *, device: int = 0) -> None:
        """Load a package after its hash and this machine are checked against the record beside it.

        A package for a GPU runs on the one of CUDA's number `device`. Raises MissingDependencyError
        without torch, PlanRefusedError if the record does not match, EngineError without the GPU or
        if PyTorch cannot load the package.
        """
        on_gpu = bool(read_record(package).machine.gpu)
        record, blob = verified_plan(package, torch_machine(device if on_gpu else None))
        if record.builder != "aoti":
            raise PlanRefusedError(f"{package}: its record is not of a package of AOTInductor")
        import torch

        self.record = record
        self._device = torch.device("cuda", device) if on_gpu else torch.device("cpu")
        self._lock = threading.Lock()
        try:  # of the bytes that were checked, not of the file, which may be another by now
            self._run = torch._inductor.aoti_load_package(
                io.BytesIO(blob), device_index=device if on_gpu else -1
            )
        except Exception as error:  # of the archive, the dynamic linker, or CUDA
            raise EngineError(
                f"{package}: PyTorch {torch.__version__} cannot load it ({said(error)})"
            ) from None
        super().__init__(record.served_contract)
        event: Any = torch.cuda.Event
        self._events = [event(enable_timing=True) for _ in range(2)] if on_gpu else []
        self.engine = f"aoti{'-cuda' if on_gpu else ''}-{record.precision}"

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one picture of the package's size; raises SizeError for another size or a batch."""
        import torch

        batch, height, width = label_maps.shape[:3]
        profile = self.record.profiles[0]
        if not profile.takes(batch, height, width):
            raise SizeError(
                f"a batch of {batch} at {width}x{height} (width x height): the package takes "
                f"{profile} alone"
            )
        arrays = tensors(label_maps, instance_maps, styles)
        # The compiled code checks neither type nor shape.
        assert all(array.dtype == TENSOR_TYPES[name] for name, array in arrays.items())
        inputs = [
            torch.from_numpy(np.require(array, None, ["C", "W"])).to(self._device)
            for array in arrays.values()
        ]
        with self._lock, torch.inference_mode():
            if self._events:
                self._events[0].record()
            found = self._run(*inputs)
            if self._events:
                start, end = self._events
                end.record()
                end.synchronize()
                self.device_seconds = start.elapsed_time(end) / 1000
            image: Image = found.cpu().numpy()
        return image


def torch_machine(device: int | None) -> Machine:
    """This machine with PyTorch and a GPU by CUDA's number, or without a GPU for None.

    Raises MissingDependencyError without torch, EngineError without the GPU.
    """
    require(["torch"], extra="export", purpose="running a package of AOTInductor")
    import torch

    gpu = capability = ""
    if device is not None:
        count = torch.cuda.device_count()
        if device >= count:
            has = f"this machine has {count}, from 0" if count else "PyTorch sees none here"
            raise EngineError(f"no GPU {device}; {has}")
        gpu = torch.cuda.get_device_name(device)
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    features = set(flags[1].split() if flags else ())
    return Machine(
        tensorrt="",
        cuda_runtime=torch.version.cuda or "" if gpu else "",
        driver=driver_version() if gpu else "",
        gpu=gpu,
        compute_capability=capability,
        torch=str(torch.__version__),
        cpu_features=tuple(sorted(name for name in features if _INSTRUCTIONS.fullmatch(name))),
    )
