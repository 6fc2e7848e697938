"""Optional dependencies: a missing one is an error that names the extra and the pip line."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from sceneloom.errors import MissingDependencyError


def require(packages: Iterable[str], *, extra: str, purpose: str) -> None:
    """Check that the packages of an extra can be imported, without importing them.

    Args:
        packages: import names, such as ``("torch", "safetensors")``.
        extra: the extra of this distribution that installs them.
        purpose: what they are needed for, as the start of a sentence ("exporting a model").

    Raises:
        MissingDependencyError: one of them is not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"{purpose} needs {', '.join(missing)}, which is not installed: pip install "
            f"'sceneloom[{extra}]'"
        )
