"""Repeated keys are found in any object, however they are written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.files.strict_json import repeated_key

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_an_object_of_unique_keys_has_no_repeated_one(value: object) -> None:
    assert repeated_key(json.dumps(value).encode()) is None


@given(st.dictionaries(st.text(max_size=5), VALUES, min_size=1, max_size=4), st.integers(0, 3), VALUES)
def test_one_repeated_key_is_found_at_any_depth(members: dict[str, object], depth: int, value: object) -> None:
    key = next(iter(members))
    text = json.dumps(members)[:-1] + f", {json.dumps(key)}: {json.dumps(value)}}}"
    for _ in range(depth):
        text = f'{{"x": [{text}]}}'
    assert repeated_key(text.encode()) == key


def test_escapes_and_numbers_of_many_digits() -> None:
    assert repeated_key(b'{"a": 1, "\\u0061": 2}') == "a"
    assert repeated_key(b"[" + b"9" * 10_000 + b"]") is None
    assert repeated_key(b'{"%s": 1, "%s": 2}' % (b"k" * 1000, b"k" * 1000)) == "k" * 80
    with pytest.raises(RecursionError):
        repeated_key(b"[" * 100_000)
