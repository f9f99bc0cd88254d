"""Pictures of the worlds as tensors."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIZE = 128  # pixels of a picture's side


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB as (3, height, width) in -1..1."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
