"""Context modes of one masked convolution, and their masks.

A mode says which neighbours a latent position may see: those before it in raster order ("causal",
decoded serially or by wavefronts), for half of the positions their anchors ("checkerboard"), or none
("none"). One set of weights serves all three when training draws the mode at random, as the random-mask
model of He et al., "Checkerboard Context Model for Efficient Learned Image Compression", CVPR 2021,
section 4.1, does with its masks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import causal_mask, checkerboard_mask

MODES = ("causal", "checkerboard", "none")
ANCHOR_PARITY = "odd"
"""Anchors of the checkerboard are the positions of this row + column, as in codes derived from the paper."""


class ContextConv(nn.Conv2d):
    """A k x k convolution of y_hat (B, m, H, W) to context features (B, 2m, H, W), masked by mode.

    In "checkerboard" the anchors' features are zero, not the bias (the paper's section 4.3), as is
    everything in "none".
    """

    masks: Tensor

    def __init__(self, m: int, kernel: int = 5) -> None:
        super().__init__(m, 2 * m, kernel, padding=kernel // 2)
        self.make_masks()

    def make_masks(self) -> None:
        """(Re)make the masks, which a model made on the meta device lacks."""
        kernel = self.kernel_size[0]
        masks = [torch.from_numpy(mask(kernel)) for mask in (causal_mask, checkerboard_mask)]
        self.register_buffer("masks", torch.stack(masks).float(), persistent=False)

    def forward(self, y_hat: Tensor, mode: str) -> Tensor:  # type: ignore[override]
        """Context features under one of MODES: y_hat (B, m, H, W) to (B, 2m, H, W)."""
        if mode == "none":
            b, _, h, w = y_hat.shape
            return y_hat.new_zeros(b, self.out_channels, h, w)
        weight = self.weight * self.masks[MODES.index(mode)]
        if mode == "causal":
            return F.conv2d(y_hat, weight, self.bias, padding=self.padding)
        h, w = y_hat.shape[2:]
        parity = torch.arange(h, device=y_hat.device)[:, None] + torch.arange(w, device=y_hat.device)
        anchors = (parity % 2 == (ANCHOR_PARITY == "odd")).to(y_hat.dtype)
        return F.conv2d(y_hat * anchors, weight, self.bias, padding=self.padding) * (1 - anchors)
