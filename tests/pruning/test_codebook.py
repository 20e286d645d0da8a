"""Code books against plain k-means."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protocaffe.errors import ParameterError
from protocaffe.pruning.codebook import kmeans, nearest

FLOATS = st.floats(-100, 100, width=32)


def plain(values, book):
    """Lloyd's iterations by the full table of distances."""
    for _ in range(300):
        code = np.abs(values[:, None] - book[None]).argmin(1)
        better = np.array([values[code == k].mean() for k in range(len(book)) if (code == k).any()])
        if len(better) == len(book) and np.allclose(better, book, rtol=1e-13):
            break
        book = better
    return book


@pytest.mark.parametrize("count", [2, 4, 16, 32])
def test_the_book_is_that_of_plain_k_means(count):
    values = np.random.default_rng(count).normal(size=2000)
    book = kmeans(values, count)
    wanted = plain(values, np.linspace(values.min(), values.max(), count))
    np.testing.assert_allclose(book, wanted, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(values=hnp.arrays(np.float64, st.integers(0, 60), elements=FLOATS), bits=st.integers(0, 8))
def test_a_book_is_ascending_small_and_each_value_takes_the_nearest(values, bits):
    book = kmeans(values, 1 << bits)
    assert len(book) <= 1 << bits
    assert (np.diff(book) > 0).all()
    if len(values):
        distance = np.abs(values[:, None] - book[None])
        chosen = distance[np.arange(len(values)), nearest(values, book)]
        np.testing.assert_allclose(chosen, distance.min(1), atol=1e-9)
        assert np.array_equal(kmeans(np.random.default_rng(0).permutation(values), 1 << bits), book)
    if len(np.unique(values)) <= 1 << bits:
        assert np.array_equal(book, np.unique(values))


def test_a_book_holds_something():
    with pytest.raises(ParameterError, match="at least 1 value, got 0"):
        kmeans(np.ones(3), 0)
