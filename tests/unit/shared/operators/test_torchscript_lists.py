"""The lists against torch's own declarations: nothing on them writes, draws or aliases in another way than they say."""

from collections import defaultdict
from typing import Any

import pytest
import torch

from scripts.conformance import native_operators
from shared.operators.torchscript_lists import (
    ALIASING,
    CONCATENATING,
    CONTAINER_WRITES,
    FACTORIES,
    FRESH,
    LIST_WRITES,
    LISTING,
    RANDOM_UNLESS,
    SCALARS,
    SHAPES,
    STEERING,
    TENSOR_WRITES,
)

# Functions of the language, which have no declaration.
_BUILTINS = {"bool", "complex", "dict", "float", "int", "is_sparse", "layout", "list", "str", "tuple"}
_IN_PLACE_WITHOUT_EFFECT = {"dropout_", "alpha_dropout_", "feature_dropout_", "feature_alpha_dropout_"}
_FORBIDDEN = (
    "rand",
    "empty",
    "bernoulli",
    "normal",
    "multinomial",
    "poisson",
    "from_file",
    "save",
    "warn",
    "print",
    "seed",
)


def _declarations() -> dict[str, list[Any]]:
    found = defaultdict(list)
    for schema in torch._C._jit_get_all_schemas():
        found[schema.name.removeprefix("aten::")].append(schema)
    return found


DECLARED = _declarations()
_READING = sorted(FRESH | ALIASING | SHAPES | CONCATENATING)


def _written(schema: Any) -> list[str]:
    return [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write and not a.kwarg_only]


def test_every_name_is_an_operator_of_this_release() -> None:
    names = set(_READING) | TENSOR_WRITES | CONTAINER_WRITES | LIST_WRITES
    assert names - DECLARED.keys() - _BUILTINS == set()


def test_operators_that_only_read_neither_write_nor_draw() -> None:
    for name in set(_READING) - LIST_WRITES - _IN_PLACE_WITHOUT_EFFECT:
        for schema in DECLARED[name]:
            assert not _written(schema), schema
            assert name in RANDOM_UNLESS or all(a.name != "generator" for a in schema.arguments), schema


def test_operators_with_a_training_mode_are_listed_with_their_conditions() -> None:
    switches = {"train", "training", "use_input_stats", "dropout_p"}
    for name in _READING:
        has_switch = any(a.name in switches for schema in DECLARED[name] for a in schema.arguments)
        assert not has_switch or name in RANDOM_UNLESS, name
        for schema in DECLARED[name] if name in RANDOM_UNLESS else []:
            found = {a.name: position for position, a in enumerate(schema.arguments)}
            for condition in (c for all_of in RANDOM_UNLESS[name] for c in all_of if c.name in switches):
                assert name in ("gru", "lstm", "rnn_relu", "rnn_tanh") or found[condition.name] == condition.position


def test_no_result_of_a_fresh_operator_is_declared_as_an_alias() -> None:
    for name in sorted(FRESH | CONCATENATING):
        for schema in DECLARED[name]:
            written = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write}
            aliases = [r for r in schema.returns if r.alias_info is not None and not r.alias_info.is_write]
            assert written or not aliases, schema


def test_the_groups_do_not_overlap() -> None:
    assert FRESH & ALIASING == FRESH & CONCATENATING == ALIASING & CONCATENATING == set()
    assert not (FRESH | ALIASING) & (TENSOR_WRITES | CONTAINER_WRITES)
    assert FACTORIES <= FRESH
    assert FRESH | ALIASING >= STEERING | SCALARS


@pytest.mark.parametrize("word", _FORBIDDEN)
def test_no_name_says_that_it_draws_or_reads_files(word: str) -> None:
    assert [
        name for name in (*_READING, *TENSOR_WRITES) if word in name and not name.endswith(("_norm", "_loss"))
    ] == []


def test_operators_that_return_lists_of_views_are_listed_as_such() -> None:
    for name in sorted(ALIASING - LISTING):
        for schema in DECLARED[name]:
            returned = str(schema.returns[0].type) if schema.returns else ""
            takes_list = bool(schema.arguments) and str(schema.arguments[0].type).startswith("List")
            assert takes_list or not returned.startswith(("List[Tensor", "List[t")), schema


@pytest.mark.parametrize(
    "name",
    [
        "ctc_loss",  # a target that is no class
        "native_batch_norm",  # statistics that are short
        "_native_batch_norm_legit_no_training",
        "_scaled_dot_product_flash_attention_for_cpu",  # unequal batches
    ],
)
def test_operators_that_read_beyond_their_tensors_are_not_listed(name: str) -> None:
    """They believe their arguments; the operators that modules call check them first."""
    assert name not in FRESH | ALIASING


def test_the_lists_of_the_native_actor_are_these() -> None:
    assert native_operators.PATH.read_text() == native_operators.render(), (
        "python -m scripts.conformance.native_operators"
    )
