"""The `sceneloom` command: finds the subcommand, loads its package, lets it parse its own flags.

Only the subcommand's package is loaded: `sceneloom --help` and `sceneloom render` never import
torch. Exit codes: 0 success, 1 a reported failure, 2 a wrong command line, 3 and 4 rendering lost
its servers or its location (`sceneloom.render_command`), 130 interrupted, 143 training, rendering
or a benchmark stopped by SIGTERM, 129 a benchmark stopped by SIGHUP.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import io
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

import docstring_parser
import tyro

from sceneloom.errors import SceneLoomError, out_of_resources
from sceneloom.text import printable
from sceneloom.version import __version__

COMMANDS = {
    "import": ("sceneloom_training.import_command", "import published pix2pixHD weights"),
    "styles": ("sceneloom_training.styles_command", "cluster the styles of photographs"),
    "styles show": ("sceneloom.show_styles_command", "list the styles of a model, or of a map"),
    "encode-style": ("sceneloom_training.encode_style_command", "write the styles of a photograph"),
    "train": ("sceneloom_training.train_command", "train a model, or resume its training"),
    "check-data": (
        "sceneloom_training.check_data_command",
        "read every sample, list what is wrong",
    ),
    "train-segmenter": (
        "sceneloom_training.train_segmenter_command",
        "train a segmentation network",
    ),
    "weights": ("sceneloom_training.weights_command", "get published weights by pip"),
    "evaluate": ("sceneloom_training.evaluate_command", "score pictures against real photographs"),
    "export": ("sceneloom_export.export_command", "export a checkpoint for Triton, proven"),
    "engine": ("sceneloom_export.engine_command", "build a proven TensorRT plan for this GPU"),
    "runtimes": ("sceneloom_serving.runtimes_command", "list the engines of this machine"),
    "serve": ("sceneloom_serving.serve_command", "serve an export with the bundled Triton server"),
    "verify": ("sceneloom_serving.verify_command", "check that an export is unchanged"),
    "probe": ("sceneloom_serving.probe_command", "prove a running server with one inference"),
    "render": ("sceneloom.render_command", "render a data set through Triton servers"),
    "gateway": ("sceneloom_gateway.gateway_command", "files in, pictures out, over HTTPS"),
    "studio": ("sceneloom_gateway.studio_command", "paint maps in the browser, see the pictures"),
    "gateway-keys": ("sceneloom_gateway.keys_command", "add, list and remove API keys"),
    "bench": ("sceneloom_bench.bench_command", "measure engines, servers and rendering"),
    "schemas": ("sceneloom.schemas_command", "list the built-in label schemas, or show one"),
}
"""Subcommand -> module with its `main`, and one line of help."""
_HELP = "\n".join(
    [
        "usage: sceneloom COMMAND [ARGUMENTS]",
        "",
        "Semantic label maps in, photographs out, served through Triton.",
        "",
        *(f"  {name:16}{summary}" for name, (_, summary) in COMMANDS.items()),
        "",
        "sceneloom COMMAND --help shows a command's arguments; sceneloom --version the version.",
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's, and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it was closed
            # One character that the encoding lacks would end the run.
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"sceneloom {__version__}")
        return 0
    name, *rest = arguments
    if rest and f"{name} {rest[0]}" in COMMANDS:  # a command of two words
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(COMMANDS)}"
        print(f"sceneloom: no command {printable(repr(name))}{hint}", file=sys.stderr)
        return 2
    try:
        command = importlib.import_module(COMMANDS[name][0])
        if hasattr(command, "run"):  # a command with subcommands
            return int(command.run(rest))
        if hasattr(command, "expand_arguments"):
            rest = command.expand_arguments(rest)
        return run_command(command.main, prog=f"sceneloom {name}", arguments=rest)
    except SceneLoomError as error:
        print(f"sceneloom {name}: {printable(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        words: object = out_of_resources(error) or error
        if isinstance(error, FileNotFoundError) and not error.filename:
            try:
                Path.cwd()
            except FileNotFoundError:  # the system reports a removed folder without a name
                words = "the folder you are in was removed; change to one that exists"
        if words is error and not isinstance(error, OSError):
            traceback.print_exc()
            words = (
                f"{type(error).__name__}, a fault of SceneLoom's or of a library's; please "
                "report it with the lines above"
            )
        print(f"sceneloom {name}: {printable(words)}", file=sys.stderr)
        return 1


CONFIG = (tyro.conf.DisallowNone,)
"""None is a default, not a value to type."""


def run_command(main: Callable[..., int], *, prog: str, arguments: Sequence[str]) -> int:
    """Parse the arguments, call `main` with them, and return its exit code.

    Raises:
        SystemExit: the command line is wrong (code 2), or asks for help (code 0).
    """
    join_help_lines(main)
    return int(tyro.cli(main, prog=prog, args=list(arguments), config=CONFIG))


def join_help_lines(main: Callable[..., int]) -> None:
    """Join the lines of each argument's help, so that a terminal wraps it once.

    tyro 1.0 joins lines before it removes their indentation, which leaves indented ones apart.
    """
    main = inspect.unwrap(main)  # tyro reads the docstring below decorators
    if main.__doc__:
        main.__doc__ = re.sub(r"\n {9,}(?=\S)", " ", main.__doc__)
    kinds: list[object] = list(typing.get_type_hints(main).values())
    while kinds:
        kind = kinds.pop()
        if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
            continue
        help_of = {
            each.arg_name: " ".join((each.description or "").split())
            for base in reversed(kind.__mro__)
            if dataclasses.is_dataclass(base)
            for each in docstring_parser.parse_from_object(base).params
        }
        for field in dataclasses.fields(kind):
            if help_of.get(field.name):
                field.metadata = {"help": help_of[field.name]}  # type: ignore[assignment]
        kinds += typing.get_type_hints(kind).values()


if __name__ == "__main__":
    sys.exit(main())
