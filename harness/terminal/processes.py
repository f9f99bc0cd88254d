"""Work spread over the processes that `accelerate launch` or `torchrun` has started together."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from ...core.errors import UserError
from .options import check_folder

Work = TypeVar("Work")


class Processes:
    """This process among those that were started together; alone when nothing has started more."""

    def __init__(self) -> None:
        gpu = torch.cuda.is_available()
        self._state = PartialState(cpu=not gpu)
        self.device = str(self._state.device) if gpu else "cpu"
        self.count: int = self._state.num_processes
        self.first: bool = self._state.is_main_process

    def meet(self) -> None:
        """Waits for the others."""
        self._state.wait_for_everyone()

    def share(self, work: Sequence[Work]) -> list[Work]:
        """This process's part of some work."""
        return list(work)[self._state.process_index :: self.count]

    def spread(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """What `function` makes of all rows, each process working on some of them; the same everywhere."""
        mine = rows.tensor_split(self.count)[self._state.process_index]
        return torch.cat([part.to(rows.device) for part in gather_object([function(mine).cpu()])])

    def check_shared(self, folder: Path) -> None:
        """Raises UserError unless all processes see the same folder: what one makes the others read there."""
        check_folder("--out", folder)
        if self.count == 1:
            return
        name = [f".{uuid.uuid4().hex}"]
        broadcast_object_list(name)
        mark = folder / name[0]
        if self.first:
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
        self.meet()
        seen = mark.exists()
        self.meet()
        if self.first:
            mark.unlink()
        if not seen:
            raise UserError(f"{folder} is not the same folder for all processes; choose one on a disk that they share.")
