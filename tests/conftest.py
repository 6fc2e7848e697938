"""Fixtures shared by all tests: small real models, real files, a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import CHECKOUT, free_ports, save_published, wide_generator

if TYPE_CHECKING:
    from sceneloom_export.bundle import Exported
    from sceneloom_serving.embedded import EmbeddedServer
    from sceneloom_training.networks import GeneratorArchitecture


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Choices of engines are remembered in the tests' own folder, in child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference outputs and real samples beside the checkout; users do not have them."""
    folder = CHECKOUT.parent / "shared"
    if not (folder / "reference" / "cases.json").is_file():
        pytest.skip("needs ../shared (reference outputs and real samples), which is not here")
    return folder


@pytest.fixture(scope="session")
def small_architecture() -> GeneratorArchitecture:
    """Cityscapes labels and boundary, one enhancer, multiples of 8."""
    from sceneloom_training.networks import GeneratorArchitecture

    return GeneratorArchitecture(
        input_channels=36,
        ngf=4,
        global_downsamplings=2,
        global_blocks=2,
        enhancers=1,
        enhancer_blocks=1,
    )


@pytest.fixture(scope="session")
def published(
    tmp_path_factory: pytest.TempPathFactory, small_architecture: GeneratorArchitecture
) -> Path:
    """A `latest_net_G.pth` in the published layout."""
    path = tmp_path_factory.mktemp("published") / "latest_net_G.pth"
    save_published(wide_generator(small_architecture, seed=1), path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, published: Path) -> Path:
    """The checkpoint bundle imported from `published`."""
    from sceneloom.schema import load_schema
    from sceneloom_training.checkpoint import save_checkpoint
    from sceneloom_training.published import import_published

    imported = import_published(published, load_schema("cityscapes"))
    folder = tmp_path_factory.mktemp("checkpoint") / "bundle"
    save_checkpoint(folder, imported.generator, imported.contract, {"imported_from": "a test"})
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Exported:
    """The Triton repository exported from `checkpoint`, with batches of up to 4."""
    from sceneloom_export.bundle import export_bundle
    from sceneloom_export.settings import ServingSettings

    folder = tmp_path_factory.mktemp("export") / "repository"
    settings = ServingSettings(max_batch_size=4, queue_size=8, warmup=("64x32",))
    return export_bundle(checkpoint, folder, settings, largest=(128, 192))


@pytest.fixture(scope="session")
def server(exported: Exported) -> Iterator[EmbeddedServer]:
    """A real tritonserver that serves `exported` on free ports, in float32 on every machine."""
    from sceneloom_serving.embedded import EmbeddedServer

    with EmbeddedServer(exported.repository, free_ports(), engine="openvino-fp32") as running:
        yield running
