"""Random changes of training images, drawn and applied a batch at a time on the images' device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """Shift, mirror image and erased square of each image.

    The random numbers come from torch's generator on the CPU, so that an epoch has the same images
    on every device.

    Attributes:
        shift: largest shift in pixels, in both directions; zeros move in.
        mirrors: whether images are mirrored with probability 1/2.
        cutout: side of the erased square in pixels (DeVries and Taylor, "Improved regularization
            of convolutional neural networks with cutout", arXiv 1708.04552); 0 for none.
    """

    shift: int = 0
    mirrors: bool = False
    cutout: int = 0

    def moved(self, images: Tensor) -> Tensor:
        """Return images that are shifted and mirrored, in the memory format `channels_last`.

        Args:
            images: [B, C, H, W].
        """
        n, _, height, width = images.shape
        top, left = (self._draw(n, 2 * self.shift + 1, images) for _ in range(2))
        mirrored = self._draw(n, 1 + self.mirrors, images) > 0
        padded = F.pad(images, [self.shift] * 4)
        rows = top + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device)
        columns = left + torch.where(mirrored, width - 1 - columns, columns)
        image = torch.arange(n, device=images.device)[:, None, None]
        # Indices around a slice put the slice, the channels, last.
        return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def erased(self, x: Tensor) -> Tensor:
        """Return normalized images with a square of zeros each, the mean color.

        The center may be any pixel, so that a square at the border is smaller.

        Args:
            x: [B, C, H, W].
        """
        if not self.cutout:
            return x
        inside = []
        for size in x.shape[2:]:
            offset = torch.arange(size, device=x.device) - self._draw(len(x), size, x)
            inside.append((offset >= -(self.cutout // 2)) & (offset < (self.cutout + 1) // 2))
        rows, columns = inside
        return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)

    @staticmethod
    def _draw(n: int, limit: int, images: Tensor) -> Tensor:
        """Return n random integers below a limit, [n, 1], on the device of the images."""
        return torch.randint(limit, (n, 1)).to(images.device)
