"""Which batch is ordered when, and what is announced with it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lazyvid.training.orders import batch_count, batches, orders

SIZES = st.integers(1, 9)


@given(st.integers(0, 60), SIZES, st.booleans())
def test_batches_are_the_items_in_order(count: int, size: int, drop_last: bool) -> None:
    runs = list(batches(range(count), size, drop_last=drop_last))
    assert [item for run in runs for item in run] == list(range(count - count % size if drop_last else count))
    assert all(len(run) == size for run in runs[:-1])
    assert len(runs) == batch_count(count, size, drop_last=drop_last)


@given(st.integers(0, 40), st.integers(1, 5))
def test_a_worker_is_told_of_the_batch_that_it_gets_next(count: int, readers: int) -> None:
    given_out = list(orders(((i,) for i in range(count)), readers=readers))
    assert [order.items for order in given_out] == [(i,) for i in range(count)]
    for number, order in enumerate(given_out):
        following = given_out[number + readers].items if number + readers < count else ()
        assert order.ahead == following
