import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from protocaffe.data.order import Order, draws, permutation, stream_key


def test_in_order_wraps_around_and_skips():
    np.testing.assert_array_equal(Order(5).indices(3, 4), [3, 4, 0, 1])
    np.testing.assert_array_equal(Order(5, skip=2).indices(3, 4), [0, 1, 2, 3])
    np.testing.assert_array_equal(Order(2).indices(1, 5), [1, 0, 1, 0, 1])


def test_shuffled_epochs_are_permutations_that_differ():
    order = Order(50, shuffle=True, key=stream_key(1, "data"))
    epochs = order.indices(0, 150).reshape(3, 50)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(50))
    assert (epochs[0] != epochs[1]).any() and (epochs[0] != np.arange(50)).any()
    other = Order(50, shuffle=True, key=stream_key(2, "data"))
    assert (other.indices(0, 50) != epochs[0]).any()


@given(st.integers(0, 200), st.integers(1, 60), st.booleans(), st.integers(0, 9))
def test_indices_depend_on_the_position_only(position, count, shuffle, skip):
    whole = Order(23, shuffle, 5, skip).indices(0, 260)
    np.testing.assert_array_equal(
        Order(23, shuffle, 5, skip).indices(position, count), whole[position : position + count]
    )


def test_draws_are_addressed_by_position():
    whole = draws(9, 0, 100)
    np.testing.assert_array_equal(draws(9, 40, 7), whole[40:47])
    assert len(np.unique(whole)) == 400


def test_streams_stay_the_same_in_every_version():
    assert stream_key(1, "data", "order") == 0x8484AD6D4BC28305E1925EABB47920C5
    assert stream_key(1, "a", "b") != stream_key(1, "ab")
    np.testing.assert_array_equal(permutation(7, 1, 6), [0, 5, 3, 1, 4, 2])
    assert int(draws(7, 3, 1)[0, 0]) == 0x712A540F349A5C44
