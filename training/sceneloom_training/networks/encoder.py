"""The feature encoder (pix2pixHD, section 3.4): what an instance looks like, as a few numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sceneloom_training.networks.layers import conv7, down, stem, up


class FeatureEncoder(nn.Module):
    """Image -> features, averaged over each instance."""

    def __init__(self, features: int = 3, *, nef: int = 16, downsamplings: int = 4) -> None:
        """Build it.

        Args:
            features: numbers per instance.
            nef: filters of the first convolution.
            downsamplings: stride-2 convolutions, and as many transposed ones.
        """
        super().__init__()
        self.settings = {"features": features, "nef": nef, "downsamplings": downsamplings}
        """What it was built with; `FeatureEncoder(**settings)` builds another."""
        self.stem = stem(3, nef)
        self.downs = nn.Sequential(*(down(nef * 2**i) for i in range(downsamplings)))
        self.ups = nn.Sequential(*(up(nef * 2**i) for i in range(downsamplings, 0, -1)))
        self.head = conv7(nef, features)

    def forward(self, image: Tensor, instance_map: Tensor) -> Tensor:
        """Encode.

        Args:
            image: float [N, 3, H, W] in [-1, 1].
            instance_map: whole numbers [N, H, W].

        Returns:
            float [N, features, H, W] in [-1, 1]: each instance has its mean everywhere.
        """
        features = torch.tanh(self.head(self.ups(self.downs(self.stem(image)))))
        means, index = instance_means(features, instance_map)
        return means[index].permute(0, 3, 1, 2)


def instance_means(features: Tensor, instance_map: Tensor) -> tuple[Tensor, Tensor]:
    """Mean features of every instance of every picture.

    Args:
        features: float [N, F, H, W].
        instance_map: whole numbers [N, H, W]; an id in two pictures is two instances.

    Returns:
        means [K, F] of the features' dtype, and index int64 [N, H, W]: the row of each pixel.
    """
    pictures = torch.arange(len(instance_map), device=instance_map.device).view(-1, 1, 1)
    # One number for each pair: unique rows would be sorted by one comparison at a time.
    pairs = (pictures << 32) + instance_map.long()
    rows, index = torch.unique(pairs.flatten(), return_inverse=True)
    # Summed in double: an instance can have a million pixels.
    flat = features.permute(0, 2, 3, 1).flatten(0, 2).double()
    sums = flat.new_zeros(len(rows), flat.shape[1]).index_add(0, index, flat)
    counts = torch.bincount(index, minlength=len(rows)).unsqueeze(1)
    return (sums / counts).to(features.dtype), index.view(instance_map.shape)
