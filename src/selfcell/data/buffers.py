"""Large arrays used again and again: the pages of a fresh one cost more than what is copied into them."""

import threading
import weakref

import numpy as np
import torch


class BufferPool:
    """Gives arrays, and takes each one back when nothing looks at it any more.

    Parameters
    ----------
    pin_memory
        Take page-locked memory, from which copies to a GPU need not wait.
    """

    def __init__(self, *, pin_memory: bool = False) -> None:
        self.pin_memory = pin_memory
        self._free: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, n: int, dtype: np.typing.DTypeLike) -> np.ndarray:
        """Give an uninitialised array of ``n`` values; its memory is used again once it and its views are gone."""
        n_bytes = n * np.dtype(dtype).itemsize
        with self._lock:
            memory = self._fitting(n_bytes)
        array = memory[:n_bytes].view(dtype)
        # A view of the view would keep only the memory alive; a memoryview keeps the view itself.
        handed_out = np.frombuffer(array.data, dtype=dtype) if n else array
        weakref.finalize(array, self._free.append, memory).atexit = False
        return handed_out

    def _fitting(self, n_bytes: int) -> np.ndarray:
        for place, memory in enumerate(self._free):
            if n_bytes <= len(memory) <= 4 * max(n_bytes, 2**20):
                return self._free.pop(place)
        # What no longer fits gives way, lest the pool grow with every new size.
        del self._free[:-4]
        room = max(2**12, n_bytes + n_bytes // 16)
        return np.asarray(torch.empty(room, dtype=torch.uint8, pin_memory=self.pin_memory).numpy())
