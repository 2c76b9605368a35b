"""What a forward keeps for its backward, put away in host memory and fetched back in between."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


class KeptTensors:
    """The tensors that autograd saves within `keeping`, in slots whose contents can move.

    On a GPU `put_away` copies them to pinned host memory on a stream of its own, and `fetch` back. On a CPU they are in
    host memory already: both do nothing. Parameters stay where they are, and views that are equal are moved once.
    """

    def __init__(self, resident: Iterable[Tensor]) -> None:
        self._resident = {t.untyped_storage().data_ptr() for t in resident}
        self._slots: list[Tensor] = []
        self._same: dict[tuple[Any, ...], int] = {}
        self._ready: torch.cuda.Event | None = None

    def keeping(self) -> AbstractContextManager[Any]:
        """Forwards within have their saved tensors here."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """Have these here too, for `tensors`."""
        for tensor in tensors:
            self._pack(tensor.detach())

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is here, where it is now."""
        return tuple(self._slots)

    def _pack(self, tensor: Tensor) -> Tensor | int:
        if tensor.untyped_storage().data_ptr() in self._resident:
            return tensor
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version)
        slot = self._same.get(key)
        if slot is None:
            slot = self._same[key] = len(self._slots)
            self._slots.append(tensor)
        return slot

    def _unpack(self, kept: Tensor | int) -> Tensor:
        return self._slots[kept] if isinstance(kept, int) else kept

    def put_away(self, stream: torch.cuda.Stream | None) -> None:
        """Start to copy to the host; the device's memory is free when that is done."""
        if stream is None:
            return
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for slot, tensor in enumerate(self._slots):
                host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                host.copy_(tensor, non_blocking=True)
                tensor.record_stream(stream)
                self._slots[slot] = host
        self._same.clear()

    def fetch(self, stream: torch.cuda.Stream | None, device: torch.device) -> None:
        """Start to copy back; `wait` before they are used."""
        if stream is None:
            return
        with torch.cuda.stream(stream):
            self._slots = [host.to(device, non_blocking=True) for host in self._slots]
            self._ready = stream.record_event()

    def wait(self) -> None:
        """Let the device's work from here on wait for what was fetched."""
        if self._ready is not None:
            current = torch.cuda.current_stream()
            current.wait_event(self._ready)
            for tensor in self._slots:
                tensor.record_stream(current)
            self._ready = None
