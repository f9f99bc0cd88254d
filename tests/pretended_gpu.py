"""`python -m conceptlens.tests.pretended_gpu COMMAND ...`: the harness with its model on a GPU that only pretends.

Its tensors say that they are on another device and hold their numbers on the CPU. As on CUDA an operation on tensors of
both devices is an error, but for copies, scalars and indices from the CPU; so is a generator of the other device, and
numpy. torch lends backends written in Python what they need for that (experimental: torch 2.10 or newer). Forward-mode
derivatives and inference mode are beyond it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._contextlib import _DecoratorContextManager
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend  # pyright: ignore

aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put_.default, aten.index_put.default}
NAME = "pretended"
_libraries = [torch.library.Library("aten", "IMPL", "PrivateUse1"), torch.library.Library("_", "IMPL")]


class Pretended(Tensor):
    """A tensor on the pretended GPU; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        self = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        self.inner = inner.detach()
        return self

    def __repr__(self, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"Pretended({self.inner!r})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of the pretended GPU to numpy")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives, on the device where CUDA would have it. RuntimeError where CUDA has one."""
    leaves = tree_leaves((args, kwargs))
    ours = [leaf for leaf in leaves if isinstance(leaf, Pretended)]
    others = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Pretended)]
    wanted = kwargs.get("device")
    there = bool(ours) if wanted is None else torch.device(wanted).type == NAME
    if func is aten.copy_.default:
        there = isinstance(args[0], Pretended)
    elif func is not aten._to_copy.default and ours and any(other.ndim for other in others):
        values = args[2] if len(args) > 2 else None  # of index_put
        strange = isinstance(values, Tensor) and values.ndim and not isinstance(values, Pretended)
        if func not in INDEXING or not isinstance(args[0], Pretended) or strange:
            shapes = [[tuple(each.shape) for each in kind] for kind in (ours, others)]
            raise RuntimeError(f"{func} was given tensors {shapes[0]} of the GPU and {shapes[1]} of the CPU")
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func} was given a generator of the CPU for numbers of the GPU")
    if wanted is not None and there:
        kwargs = {**kwargs, "device": torch.device("cpu"), "pin_memory": False}
        kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory" or value}
    known = {id(tensor.inner): tensor for tensor in ours} | {id(tensor): tensor for tensor in others}
    inner = tree_map(lambda leaf: leaf.inner if isinstance(leaf, Pretended) else leaf, (args, kwargs))
    result = func(*inner[0], **inner[1])

    def outer(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or isinstance(leaf, Pretended):
            return leaf
        return known.get(id(leaf)) if id(leaf) in known else Pretended(leaf) if there else leaf

    return tree_map(outer, result)


def register() -> None:
    """Makes the device known to torch."""

    def empty(size: Any, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Tensor:
        return Pretended(torch.empty(size, dtype=dtype))

    def empty_strided(size: Any, stride: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return Pretended(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:  # noqa: ARG001
        numbers = [tensor.inner if isinstance(tensor, Pretended) else tensor for tensor in (source, target)]
        numbers[1].copy_(numbers[0])
        return target

    _setup_privateuseone_for_python_backend(NAME)
    operations: dict[str, Callable[..., Tensor]] = {"empty.memory_format": empty, "empty_strided": empty_strided}
    for name, operation in {**operations, "_copy_from": copy_from}.items():
        _libraries[0].impl(name, operation)
    _libraries[1].fallback(lambda func, *args, **kwargs: computed(func, args, kwargs), "PrivateUse1")


class NoGradient(_DecoratorContextManager):
    """In place of inference mode, whose tensors can't be wrapped."""

    def __new__(cls, mode: Any = True) -> Any:
        return cls()(mode) if callable(mode) else super().__new__(cls)

    def __init__(self, mode: bool = True) -> None:
        self.mode, self.before = mode, True

    def __enter__(self) -> None:
        self.before = torch.is_grad_enabled()
        torch.set_grad_enabled(not self.mode)

    def __exit__(self, *_: object) -> None:
        torch.set_grad_enabled(self.before)

    def clone(self) -> NoGradient:
        return type(self)(self.mode)


def main() -> int:
    register()
    torch.inference_mode = NoGradient  # pyright: ignore
    # Only now: what they import is decorated with it.
    from conceptlens.harness import __main__ as harness
    from conceptlens.harness.terminal import models

    load = models.load_any_pipeline

    def load_there(path: Any, device: str | None = None) -> Any:  # noqa: ARG001
        pipe = load(path, "cpu")
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.to(torch.device(NAME, 0)).requires_grad_(False)
        return pipe

    models.load_any_pipeline = load_there
    return harness.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
