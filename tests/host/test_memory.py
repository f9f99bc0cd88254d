"""What a private copy of a model takes: its weights once."""

from __future__ import annotations

from typing import Any
from weakref import finalize

import pytest
import torch
from conceptlens.core.model.protocols import Family
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytestmark = pytest.mark.usefixtures("host_modules")


class Bytes(TorchDispatchMode):
    """Counts the memory that is made while it is on, and how much of it was in use at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not leaf.is_meta:
                storage = leaf.untyped_storage()
                if storage._cdata not in given | self._known:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result

    def _gone(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


@pytest.fixture
def model(pipe: Any, family: Family) -> Any:
    from conceptlens.tests.host.twin import twin_model

    return twin_model(pipe, family)


def test_a_private_unet_takes_its_weights_once(model: Any) -> None:
    """And nothing of it is left without numbers; each is the host's own."""
    from conceptlens.nodes.host import HostDiffusion

    with Bytes() as counted:
        diffusion = HostDiffusion(model)
    held = dict([*diffusion._unet.named_parameters(), *diffusion._unet.named_buffers()])
    sizes = [tensor.nbytes for tensor in held.values()]
    assert counted.peak <= sum(sizes) + 2 * max(sizes) + 2**16
    theirs = model.model.diffusion_model.state_dict()
    assert held.keys() == theirs.keys()
    for name, tensor in held.items():
        assert torch.equal(tensor, theirs[name])
        assert tensor.data_ptr() != theirs[name].data_ptr()
        assert not tensor.requires_grad
