"""Triton's log lines, literally as the bundled server writes them."""

from __future__ import annotations

import pytest

from sceneloom_serving.server_log import LogLine, explain_failure, parse_line

FAILED = (
    "failed to load 'synthesis' version 1: Internal: ExportError: model.onnx: cannot load it\n\n"
    "At:\n  /repo/synthesis/1/model.py(3): <module>\n"
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            'I1123 15:13:16.706123 4847 server.cc:674] "Started HTTPService at 127.0.0.1:8000"\n',
            LogLine("info", "Started HTTPService at 127.0.0.1:8000"),
        ),
        (
            'E1123 15:13:16.706123 4847 model_lifecycle.cc:642] "failed: \\"x\\"\\n\\nAt:"',
            LogLine("error", 'failed: "x"\n\nAt:'),
        ),
        (
            "W1123 15:13:16.706123 4847 pinned_memory_manager.cc:271] not quoted",
            LogLine("warning", "not quoted"),
        ),
        ("+---------+-----+", LogLine("output", "+---------+-----+")),
        ("Signal (15) received.", LogLine("output", "Signal (15) received.")),
        ("", LogLine("output", "")),
        ('I1123 15:13:16.7 1 a.cc:1] "a\\\\b über"', LogLine("info", "a\\b über")),
    ],
)
def test_parse(line: str, expected: LogLine) -> None:
    assert parse_line(line) == expected


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (LogLine("error", FAILED), FAILED.split("\n")[0]),
        (LogLine("error", "CudaDriverHelper has not been initialized."), None),
        (LogLine("error", "unable to create stream for synthesis_encoded: CUDA driver"), None),
        (LogLine("warning", "CUDA driver version is insufficient"), None),
        (LogLine("warning", "request was rejected"), "request was rejected"),
        (LogLine("info", "loading: synthesis:1"), None),
        (LogLine("output", "| synthesis | 1 | READY |"), None),
        (LogLine("output", "At:"), None),
        (LogLine("output", "/repo/synthesis/1/model.py(3): <module>"), None),
        (LogLine("output", "<frozen importlib._bootstrap>(241): _call"), None),
        (LogLine("output", "Signal (15) received."), None),
        (LogLine("output", "printed by the model"), "printed by the model"),
        (LogLine("output", ""), None),
    ],
)
def test_summary(line: LogLine, shown: str | None) -> None:
    assert line.summary == shown


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            [
                LogLine("error", "CudaDriverHelper has not been initialized."),
                LogLine("error", FAILED),
            ],
            "model 'synthesis' was refused: ExportError: model.onnx: cannot load it",
        ),
        (
            [LogLine("error", "failed to start HTTP service: Address already in use")],
            "failed to start HTTP service: Address already in use",
        ),
        ([LogLine("error", "first"), LogLine("error", "last")], "last"),
        (
            [LogLine("output", "error while loading shared libraries: libx.so")],
            "error while loading shared libraries: libx.so",
        ),
        ([LogLine("output", "")], "it said nothing"),
        ([], "it said nothing"),
    ],
)
def test_explanation(lines: list[LogLine], reason: str) -> None:
    assert explain_failure(lines) == reason
