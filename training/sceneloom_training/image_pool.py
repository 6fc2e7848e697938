"""The image pool (Shrivastava et al., 2017): the discriminator also sees earlier pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Keeps pictures of earlier steps and hands half of them out again.

    The published default is a size of 0: every picture is handed through.
    """

    def __init__(self, size: int, *, seed: int = 0) -> None:
        """Start empty.

        Args:
            size: most pictures to keep.
            seed: of its own random choices.
        """
        assert size >= 0
        self._size = size
        self._images: list[Tensor] = []
        self._random = torch.Generator().manual_seed(seed)

    def query(self, images: Tensor) -> Tensor:
        """Exchange pictures.

        Args:
            images: float [N, C, H, W]; detached copies are kept.

        Returns:
            as many of the same shape: each is the given one or, once the pool is full, with even
            odds an earlier one, whose place the given one takes.
        """
        if not self._size:
            return images.detach()
        return torch.stack([self._exchange(image) for image in images.detach()])

    def _exchange(self, image: Tensor) -> Tensor:
        if len(self._images) < self._size:
            self._images.append(image.clone())
            return image
        if torch.rand((), generator=self._random) < 0.5:
            return image
        place = int(torch.randint(self._size, (), generator=self._random))
        earlier, self._images[place] = self._images[place], image.clone()
        return earlier

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on alike: pictures and random state."""
        return {"images": list(self._images), "random": self._random.get_state()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Go on where `state_dict` was taken, with the pictures on the given device."""
        self._images = [image.to(device) for image in state["images"]]
        self._random.set_state(state["random"])
