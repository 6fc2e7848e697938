"""Fixtures shared by all tests: small real models, real files, a real server."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from support import CHECKOUT, free_ports, make_once, save_published, wide_generator

import sceneloom_serving  # noqa: F401 - before a test imports openvino: no reports of its use

if TYPE_CHECKING:
    from sceneloom_export.bundle import Exported
    from sceneloom_serving.embedded import EmbeddedServer
    from sceneloom_training.networks import GeneratorArchitecture

# Without this an eighth of the time goes to the collector, which looks through all of PyTorch.
gc.set_threshold(50_000)

# How long one example takes says something of the machine only, which others use too.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all workers of this run: what takes long to make is made once, in it."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def _caches(run_folder: Path) -> Iterator[None]:
    """Choices of engines are remembered in the tests' own folder, in child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(run_folder / "cache"))
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
def published(run_folder: Path, small_architecture: GeneratorArchitecture) -> Path:
    """A `latest_net_G.pth` in the published layout."""

    def make(folder: Path) -> Path:
        path = folder / "latest_net_G.pth"
        save_published(wide_generator(small_architecture, seed=1), path)
        return path

    return make_once(run_folder / "published", make)


@pytest.fixture(scope="session")
def checkpoint(run_folder: Path, published: Path) -> Path:
    """The checkpoint bundle imported from `published`."""
    return make_once(run_folder / "checkpoint", lambda folder: import_bundle(published, folder))


@pytest.fixture(scope="session")
def least_checkpoint(run_folder: Path) -> Path:
    """A checkpoint bundle of the fewest layers, for what takes seconds for each of them."""

    def make(folder: Path) -> Path:
        from sceneloom_training.networks import GeneratorArchitecture

        fewest = GeneratorArchitecture(
            input_channels=36, ngf=4, global_downsamplings=1, global_blocks=1
        )
        save_published(wide_generator(fewest, seed=1), folder / "latest_net_G.pth")
        return import_bundle(folder / "latest_net_G.pth", folder)

    return make_once(run_folder / "least", make)


def import_bundle(published: Path, folder: Path) -> Path:
    """Import weights in the published layout, of Cityscapes labels, into `folder`/bundle."""
    from sceneloom.schema import load_schema
    from sceneloom_training.checkpoint import save_checkpoint
    from sceneloom_training.published import import_published

    imported = import_published(published, load_schema("cityscapes"))
    bundle, provenance = folder / "bundle", {"imported_from": "a test"}
    save_checkpoint(bundle, imported.generator, imported.contract, provenance)
    return bundle


@pytest.fixture(scope="session")
def exported(run_folder: Path, checkpoint: Path) -> Exported:
    """The Triton repository exported from `checkpoint`, with batches of up to 4, to be read only:
    all workers share it.
    """

    def make(folder: Path) -> Exported:
        from sceneloom_export.bundle import export_bundle
        from sceneloom_export.settings import TritonSettings

        settings = TritonSettings(max_batch_size=4, warmup=("64x32",))
        return export_bundle(checkpoint, folder / "repository", settings, largest=(128, 192))

    return make_once(run_folder / "export", make)


@pytest.fixture(scope="session")
def compiled(run_folder: Path, least_checkpoint: Path) -> Path:
    """A repository for 96x64 with a package of AOTInductor in float32, of `least_checkpoint`, to be
    copied: its build takes long.
    """

    def make(folder: Path) -> Path:
        from sceneloom_export.bundle import export_bundle
        from sceneloom_export.engine import build_engine
        from sceneloom_export.settings import ExportSettings, PlanSettings

        fp32 = ExportSettings(precision=("fp32",))
        export_bundle(least_checkpoint, folder / "repository", sizes=((64, 96),), export=fp32)
        settings = PlanSettings(runtime="aoti", precision="fp32", timed_runs=3)
        build_engine(folder / "repository" / "synthesis" / "1" / "model.onnx", settings)
        return folder / "repository"

    return make_once(run_folder / "compiled", make)


@pytest.fixture(scope="session")
def engine_bundle(run_folder: Path) -> Path:
    """What `sceneloom engine` reads of an export bundle, to be copied: all workers share it."""
    from gpu_worlds import write_engine_bundle

    return make_once(run_folder / "engine", lambda folder: write_engine_bundle(folder / "bundle"))


@pytest.fixture(scope="session")
def server(exported: Exported) -> Iterator[EmbeddedServer]:
    """A real tritonserver that serves `exported` on free ports, in float32 on every machine."""
    from sceneloom_serving.embedded import EmbeddedServer

    with EmbeddedServer(exported.repository, free_ports(), engine="openvino-fp32") as running:
        yield running
