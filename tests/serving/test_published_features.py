"""A published feature model, its encoder and clusters included, from the published files through a
real tritonserver to the published pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support import free_ports, save_published

from sceneloom import TritonSynthesizer, cli
from sceneloom.schema import load_schema
from sceneloom_export.bundle import export_bundle
from sceneloom_export.settings import ExportSettings
from sceneloom_serving.embedded import EmbeddedServer
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.networks import Generator, GeneratorArchitecture
from sceneloom_training.published_styles import import_encoder
from sceneloom_training.torch_synthesizer import TorchSynthesizer

pytestmark = pytest.mark.triton


def published_edges(ids: torch.Tensor) -> torch.Tensor:
    """The boundary map of the published code: a pixel differs from its left, right, upper or lower
    neighbour. ids [H, W] -> float [H, W].
    """
    edge = torch.zeros_like(ids, dtype=torch.bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:-1] |= ids[1:] != ids[:-1]
    return edge.float()


@pytest.mark.slow
def test_the_served_pictures_are_the_published_ones(shared: Path, tmp_path: Path) -> None:
    labels = len(load_schema("cityscapes").labels)
    architecture = GeneratorArchitecture(
        input_channels=labels + 1 + 3, ngf=4, global_downsamplings=2, global_blocks=1
    )
    torch.manual_seed(3)
    generator = Generator(architecture).eval()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_published(generator, tmp_path / "latest_net_G.pth")
    centres = np.random.default_rng(0).uniform(-1, 1, (5, 3))
    clusters = {26: centres, 7: centres[:1]}
    np.save(tmp_path / "features_clustered_010.npy", clusters, allow_pickle=True)  # type: ignore[arg-type]
    encoder = shared / "reference" / "feature_encoder.pth"
    command = ["import", tmp_path / "latest_net_G.pth", "--labels", "cityscapes", "--out"]
    command += [tmp_path / "bundle", "--encoder", encoder]
    command += ["--clusters", tmp_path / "features_clustered_010.npy"]
    assert cli.main([str(word) for word in command]) == 0

    bundle = load_checkpoint(tmp_path / "bundle")
    assert bundle.encoder is not None
    assert bundle.encoder.state_dict().keys() == import_encoder(encoder, 3).state_dict().keys()
    contract = bundle.contract
    assert contract is not None
    assert np.allclose(contract.style_clusters[26], centres, atol=1e-6)

    # The published inference: the one-hot, the boundaries, and the cluster of each instance.
    label_map = np.full((64, 96), 7, np.uint8)
    label_map[20:40, 10:30] = label_map[30:60, 50:80] = 26
    ids = label_map.astype(np.int32)
    ids[20:40, 10:30], ids[30:60, 50:80] = 26000, 26001
    chosen = {7: centres[0], 26000: centres[3], 26001: centres[1]}
    features = np.zeros((3, 64, 96), np.float32)
    for number, style in chosen.items():
        features[:, ids == number] = style[:, None]
    channels = np.vectorize({label.id: n for n, label in enumerate(contract.schema.labels)}.get)
    one_hot = np.eye(labels, dtype=np.float32)[channels(label_map)].transpose(2, 0, 1)
    planes = [torch.from_numpy(one_hot), published_edges(torch.from_numpy(ids))[None]]
    with torch.inference_mode():
        output = generator(torch.cat([*planes, torch.from_numpy(features)])[None])[0]
    published = ((output + 1) / 2 * 255).clamp(0, 255).permute(1, 2, 0).numpy()

    styles = np.stack([chosen[number] for number in np.unique(ids)]).astype(np.float32)
    inputs = channels(label_map).astype(np.uint8), ids, styles
    exported = export_bundle(
        tmp_path / "bundle",
        tmp_path / "repository",
        largest=(64, 96),
        export=ExportSettings(precision=("fp32",)),
    )
    with (
        EmbeddedServer(exported.repository, free_ports()) as server,
        TritonSynthesizer(server.grpc) as client,
        TorchSynthesizer(bundle.generator, contract) as synthesizer,
    ):
        assert client.contract.style_clusters == contract.style_clusters
        for picture in (client.synthesize(*inputs), synthesizer.synthesize(*inputs)):
            assert picture.std() > 10
            assert np.abs(picture - published).max() <= 1
