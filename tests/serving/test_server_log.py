"""Triton's log lines, literally as the bundled server writes them."""

from __future__ import annotations

import pytest

from sceneloom_serving.bundled_server import (
    LogLine,
    explain_end,
    explain_failure,
    last_words,
    parse_line,
    stub_refusal,
)

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
        (
            [LogLine("error", "CudaDriverHelper has not been initialized.")],
            "no output",
        ),
        (
            [
                LogLine(
                    "error",
                    "failed to load 'synthesis' version 1: Internal: Unable to initialize shared "
                    "memory key 'sceneloom-1' to requested size (1048576 bytes).",
                )
            ],
            "the model's process needs shared memory, and /dev/shm is full, small or read-only",
        ),
        ([LogLine("output", "")], "no output"),
        ([], "no output"),
    ],
)
def test_explanation(lines: list[LogLine], reason: str) -> None:
    assert explain_failure(lines) == reason


def test_an_end_names_its_signal_and_not_what_a_server_without_a_gpu_says() -> None:
    noise = [LogLine("error", "CudaDriverHelper has not been initialized.")]
    assert explain_end(-11, noise) == "the Triton server was ended by SIGSEGV"
    assert explain_end(-64, noise) == "the Triton server was ended by SIGRTMAX"
    assert explain_end(-50, noise) == "the Triton server was ended by signal 50"
    assert explain_end(1, [*noise, LogLine("error", "no room")]) == (
        "the Triton server ended with code 1: no room"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("what():  ValueError: negative dimensions are not allowed", " (ValueError: negative"),
        ("Signal (11) received.", " (SIGSEGV)"),
        ("printed by the model", ""),
    ],
)
def test_what_the_models_process_said_of_its_end(text: str, words: str) -> None:
    assert last_words([LogLine("output", text), LogLine("info", "later")]).startswith(words)
    assert bool(last_words([LogLine("output", text)])) == bool(words)


def test_a_stub_that_the_shell_cannot_start_is_found_in_the_log() -> None:
    busy = "sh: 1: exec: /tmp/sceneloom-1/python/triton_python_backend_stub: Text file busy"
    assert stub_refusal(parse_line(busy)) == "Text file busy"
    assert stub_refusal(parse_line(busy.replace("Text file busy", "not found"))) == "not found"
    assert stub_refusal(parse_line("printed by the model")) is None
