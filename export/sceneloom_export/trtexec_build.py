"""ONNX -> TensorRT plan through `trtexec`, where TensorRT has no Python module: NVIDIA's Triton
images have the tool and not the module.

The line is the equivalent of tensorrt_build.py. trtexec also times the plan, with copies; it cannot
compare pictures, so parity is left to the server that loads the plan.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sceneloom.contract import Contract
from sceneloom.errors import EngineError
from sceneloom.text import one_line
from sceneloom_export.tensorrt_build import generation
from sceneloom_export.tensorrt_settings import FLOAT32, EngineSettings
from sceneloom_serving.profiles import Profile

_IMAGE_PATH = "/usr/src/tensorrt/bin/trtexec"
_BUILD_TIMEOUT_S = 6 * 3600
_HARDWARE = {"ampere+": "ampere+", "same-capability": "sameComputeCapability"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """What trtexec measured."""

    p50_ms: float
    """Median, copies included."""
    p99_ms: float
    """99th percentile."""
    count: int
    """Runs."""

    def to_json(self) -> dict[str, Any]:
        """As a record has it."""
        return {**dataclasses.asdict(self), "measured_by": "trtexec"}


def find_trtexec() -> str | None:
    """The tool on the PATH, or where NVIDIA's images keep it."""
    return shutil.which("trtexec") or shutil.which(_IMAGE_PATH)


def trtexec_version(tool: str) -> str:
    """The release that a trtexec belongs to, such as 10.16.1.

    Raises:
        EngineError: it does not say.
    """
    done = subprocess.run(
        [tool, "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    return parse_version(done.stdout + done.stderr, tool)


def parse_version(output: str, tool: str) -> str:
    """Find the version in trtexec's first line: v8601 is 8.6.1, v101601 is 10.16.1.

    Raises:
        EngineError: there is none.
    """
    found = re.search(r"\[TensorRT v(\d{4,6})\]", output)
    if found is None:
        raise EngineError(
            f"{tool}: does not say which TensorRT it belongs to ({one_line(output)!r})"
        )
    number = int(found[1])
    # Before 10, versions had one digit for the minor and two for the patch.
    major, minor, patch = (
        (number // 1000, number // 100 % 10, number % 100)
        if number < 10_000
        else (number // 10_000, number // 100 % 100, number % 100)
    )
    return f"{major}.{minor}.{patch}"


def trtexec_line(
    tool: str,
    version: str,
    graph: Path,
    plan: Path,
    contract: Contract,
    profiles: Sequence[Profile],
    settings: EngineSettings,
    norms: str,
) -> list[str]:
    """The command that builds and times a plan.

    Args:
        tool: trtexec.
        version: of it.
        graph: the ONNX file that this generation takes.
        plan: the file to write.
        contract: names the inputs.
        profiles: ranges of batch and size; trtexec times the first.
        settings: the rest.
        norms: `group`, `native` or `plugin`.
    """
    line = [tool, f"--onnx={graph}", f"--saveEngine={plan}", "--noTF32"]
    for number, profile in enumerate(profiles):
        line += [f"--profile={number}"] if len(profiles) > 1 else []
        for flag, point in (("min", "least"), ("opt", "tuned"), ("max", "most")):
            shapes = profile.shapes(contract, point)  # type: ignore[arg-type]
            line.append(f"--{flag}Shapes={_spec(shapes)}")
    line += [f"--shapes={_spec(profiles[0].shapes(contract, 'tuned'))}"]
    line += ["--useProfile=0"] if len(profiles) > 1 else []
    line += [f"--builderOptimizationLevel={settings.builder_level}", f"--device={settings.device}"]
    if settings.workspace_bytes:
        line.append(f"--memPoolSize=workspace:{settings.workspace_bytes / (1 << 20):g}")
    if settings.timing_cache is not None:
        line.append(f"--timingCacheFile={settings.timing_cache}")
    if settings.version_compatible:
        line.append("--versionCompatible")
    if settings.hardware != "none":
        line.append(f"--hardwareCompatibilityLevel={_HARDWARE[settings.hardware]}")
    line += _of_generation(generation(version), graph, settings, norms)
    iterations = f"--iterations={settings.timed_runs}"
    return [*line, "--useCudaGraph", "--warmUp=1000", "--duration=0", iterations]


def _of_generation(major: int, graph: Path, settings: EngineSettings, norms: str) -> list[str]:
    if major == 8:
        line = ["--tacticSources=-CUBLAS,-CUBLAS_LT,-CUDNN"]
        if settings.precision == "fp16":
            names = float32_names(graph)
            line += ["--fp16", "--precisionConstraints=obey"]
            line.append("--layerPrecisions=" + ",".join(f"{name}:fp32" for name in names))
        return line
    typed = ["--stronglyTyped"] if major == 10 else []  # 11 has no other kind, and no such flag
    return [*typed, *(["--pluginInstanceNorm"] if norms == "plugin" else [])]


def float32_names(graph: Path) -> list[str]:
    """The names of group_norms.onnx that begin with `FLOAT32`, in order.

    trtexec 8.6 takes no wildcards, and onnx is not installed here: names are plain text in the
    file.
    """
    pattern = re.escape(FLOAT32).encode() + rb"\d+_\w+"
    found = [match.decode() for match in re.findall(pattern, graph.read_bytes())]
    if not found:
        raise EngineError(f"{graph}: has no nodes named {FLOAT32}...; it is not for TensorRT 8.6")
    return list(dict.fromkeys(found))


def _spec(shapes: dict[str, tuple[int, ...]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def run_trtexec(line: list[str]) -> Latency:
    """Build and time a plan; minutes.

    Raises:
        EngineError: trtexec failed; the text has its own last errors.
    """
    try:
        done = subprocess.run(
            line,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"{line[0]}: did not end within {_BUILD_TIMEOUT_S // 3600} h") from None
    if done.returncode:
        errors = [text for text in done.stdout.splitlines() if "[E]" in text] or [done.stdout]
        raise EngineError(f"{line[0]}: failed ({one_line(' '.join(errors[:3]), most=600)})")
    return parse_latency(done.stdout, line[0])


def parse_latency(output: str, tool: str) -> Latency:
    """Find what trtexec measured in its summary.

    Raises:
        EngineError: it is not there.
    """
    summary = re.search(
        r"\bLatency: .*?median = ([\d.]+) ms.*?percentile\(99%\) = ([\d.]+) ms", output
    )
    count = re.search(r"Timing trace has (\d+) queries", output)
    if summary is None or count is None:
        raise EngineError(f"{tool}: built the plan and did not say how fast it is")
    return Latency(p50_ms=float(summary[1]), p99_ms=float(summary[2]), count=int(count[1]))
