"""Views show what numpy's do, and moves copy what they show."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.engines.row_compiler.views import Move, View, move


@st.composite
def views(draw: st.DrawFn) -> tuple[View, np.ndarray]:
    """Draw a view of an array that counts, and what numpy shows by the same steps."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    view, shown = View.of(shape), np.arange(math.prod(shape)).reshape(shape)
    for kind in draw(st.lists(st.sampled_from(("transposed", "cut", "without", "expanded")), max_size=4)):
        if kind == "transposed":
            order = draw(st.permutations(range(shown.ndim)))
            view, shown = view.transposed(order), shown.transpose(order)
        elif kind == "cut" and shown.ndim:
            axis = draw(st.integers(0, shown.ndim - 1))
            taken = range(shown.shape[axis])[:: draw(st.sampled_from((1, 2, -1)))][: draw(st.integers(1, 3))]
            view = view.cut(axis, taken[0], len(taken), taken.step)
            shown = np.take(shown, taken, axis=axis)
        elif kind == "without" and 1 in shown.shape:
            axis = shown.shape.index(1)
            view, shown = view.without([axis]), shown.squeeze(axis)
        elif kind == "expanded":
            to = [2, *(3 if n == 1 else n for n in shown.shape)]
            view, shown = view.expanded(to), np.broadcast_to(shown, to)
    return view, shown


def _copied(source: np.ndarray, target: np.ndarray, made: Move) -> None:
    for places in np.ndindex(made.sizes):
        from_place = made.start + sum(i * stride for i, stride in zip(places, made.strides, strict=True))
        to_place = made.target + sum(i * stride for i, stride in zip(places, made.target_strides, strict=True))
        target[to_place] = source[from_place]


@settings(max_examples=100)
@given(views())
def test_shows_what_numpy_does_and_moves_it(made: tuple[View, np.ndarray]) -> None:
    view, shown = made
    assert view.shape == shown.shape
    np.testing.assert_array_equal(view.places(), shown.reshape(-1))
    places = shown.reshape(-1)
    assert view.is_row_major == bool((np.diff(places) == 1).all())

    target = np.full(shown.size, -1)
    _copied(np.arange(1000), target, move(view, View.of(view.shape)))
    np.testing.assert_array_equal(target, shown.reshape(-1))


def test_a_move_has_as_few_loops_as_possible() -> None:
    whole = View.of((2, 3, 4))
    assert move(whole, whole) == Move((24,), (1,), 0, (1,), 0)
    assert move(whole.cut(0, 1, 1), View.of((1, 3, 4))) == Move((12,), (1,), 12, (1,), 0)
    assert move(View.of((2, 1, 4)), View.of((2, 5, 4)).cut(1, 3, 1)) == Move((2, 4), (4, 1), 0, (20, 1), 12)
    assert move(whole.transposed((0, 2, 1)), View.of((2, 4, 3))).sizes == (2, 4, 3)
    assert move(View.of((1, 1)), View.of((1, 1))).sizes == (1,)
