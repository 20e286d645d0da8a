"""All learnable parameters of a net in one piece of memory: an update is one kernel, a reduction one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .memory import Memory, Storage

if TYPE_CHECKING:
    from .backends.base import Backend
    from .blob import Blob, Values

#: elements per block (kernels/update.cu: ARENA_BLOCK); a block belongs to one parameter
BLOCK = 64


class Arena:
    """Master values, diffs and masks of ``blobs``, each padded to whole blocks.

    ``master`` is what solvers update, ``working`` what layers read: ``working = mask ? master : +0``. With values in
    the arithmetic type and masks that prune for good the two are one buffer, which the update kernels keep that way.
    ``version`` counts changes that invalidate a bound update: a mask where there was none.
    """

    def __init__(self, backend: Backend, blobs: Sequence[Blob]) -> None:
        self.backend = backend
        self.blobs = list(blobs)
        self.version = 0
        self.offsets: list[int] = []
        size = 0
        for blob in self.blobs:
            self.offsets.append(size)
            size += -(-blob.count // BLOCK) * BLOCK
        self.size = max(size, BLOCK)
        self.master = Storage(backend, self.size, backend.real)
        self.working = self.master
        self.diff = Storage(backend, self.size, backend.real)
        self.mask: Storage | None = None
        for blob, offset in zip(self.blobs, self.offsets, strict=True):
            self._adopt(blob, offset)

    def _adopt(self, blob: Blob, offset: int) -> None:
        values, keep = blob.values, blob.mask
        if values.data.storage is not None:
            self.working.host()[offset : offset + blob.count] = blob.data.ravel()
        values.data.place(self.working, offset)
        values.diff.place(self.diff, offset)
        values.arena, values.offset = self, offset
        if keep is not None:
            values.mask.storage = None
            blob.mask = keep

    @property
    def soft(self) -> bool:
        """Whether pruned weights live on: `master` is a buffer of its own, and `working` has +0 where the mask is 0."""
        return self.master is not self.working

    def soften(self) -> None:
        """Let pruned weights live on, from the values that layers read now."""
        self.master = Storage(self.backend, self.size, self.backend.real)
        self.master.assign(self.working.read(), (self.size,))
        self.version += 1

    def harden(self) -> None:
        """Let what is pruned be gone."""
        self.master = self.working
        self.version += 1

    def piece(self, storage: Storage, blob: Blob) -> Memory:
        """A parameter's piece of a storage of the arena's size."""
        return Memory(storage, blob.shape, blob.values.offset)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.size // BLOCK

    def per_block(self, multipliers: Sequence[float]) -> Memory:
        """One value per parameter, spread over its blocks."""
        out = np.zeros(self.blocks, dtype=self.backend.real)
        for blob, offset, value in zip(self.blobs, self.offsets, multipliers, strict=True):
            out[offset // BLOCK : (offset + blob.count + BLOCK - 1) // BLOCK] = value
        return self.backend.from_array(out)

    def place_mask(self, values: Values) -> None:
        """Give a parameter its piece of the mask; the first one makes the mask, all ones."""
        if self.mask is None:
            self.mask = Storage(self.backend, self.size, np.uint8)
            self.mask.host()[...] = 1
            self.version += 1
        values.mask.place(self.mask, values.offset)

    def drop_mask(self, values: Values) -> None:
        """Forget a parameter's mask: all its weights are kept from here on."""
        if self.mask is not None and values.mask.storage is self.mask:
            end = next((o for o in self.offsets if o > values.offset), self.size)
            self.mask.host()[values.offset : end] = 1
