"""Fine-tuning of code books: weights that share a value go on sharing it (Han et al. 2016, section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocaffe.errors import ParameterError

if TYPE_CHECKING:
    from protocaffe.blob import Blob
    from protocaffe.solver import Solver

#: a code book has at most so many values (and perhaps 0, which is none of them)
MAX_BOOK = 256


class CodeBook:
    """The groups of equal weights of one parameter, as they are now; zeros are not among them."""

    def __init__(self, blob: Blob) -> None:
        self.blob = blob
        flat = blob.data.ravel()
        self.places = np.flatnonzero(flat)
        self.values, self.codes = np.unique(flat[self.places], return_inverse=True)
        self._sizes = np.bincount(self.codes, minlength=self.values.size)

    def tie_gradient(self) -> None:
        """Give every weight the mean gradient of its group.

        This is the step that the paper takes for a shared value, from the sum of the gradients, over the number of
        weights: the projection of the full step, so that learning rates mean what they mean without code books.
        """
        mask = self.blob.mask
        if mask is not None and not mask.ravel()[self.places].all():  # pruned since
            keep = mask.ravel()[self.places]
            self.places, self.codes = self.places[keep], self.codes[keep]
            self._sizes = np.bincount(self.codes, minlength=self.values.size)
        diff = self.blob.diff.reshape(-1)
        sums = np.bincount(self.codes, diff[self.places].astype(np.float64), self.values.size)
        diff[self.places] = (sums / np.maximum(self._sizes, 1))[self.codes]


def keep_code_books(solver: Solver) -> list[CodeBook]:
    """Let a solver tune the code books of the weights that were loaded into it, from its next step on; returns them.

    Weights of equal value, gradient and history change alike under every rule, so they stay equal to the bit.
    Parameters whose weights are not from a code book (``blob.values.tied``), or no longer so, are left alone. A weight
    that is 0 is in no group: without a mask it learns on its own.

    Raises ParameterError where the solver file prunes with ``mode: SOFT``: a weight that comes back would share its
    value with none.
    """
    if solver.prunes_softly and any(blob.values.tied for blob in solver.net.learnable_params):
        raise ParameterError(
            f'solver "{solver.source}": pruning_param: mode: SOFT lets weights come back, and these come from code '
            "books, which have no value for such a weight: prune with mode: HARD, or start from the weights as they "
            "were before they were compressed"
        )
    books: list[CodeBook] = []
    for blob in solver.net.learnable_params:
        if blob.values.tied:
            book = CodeBook(blob)
            blob.values.tied = book.values.size <= MAX_BOOK
            if blob.values.tied:
                books.append(book)

    def tie() -> None:
        for book in books:
            book.tie_gradient()

    if books:
        solver.add_callback(lambda: None, tie)
    return books
