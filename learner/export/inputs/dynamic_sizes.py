"""Sizes of arguments that vary from call to call: the batch size, and sizes that the user names.

A size is named by a string or a ``torch.export.Dim``, and equal names are equal sizes. An input may also have a size
such as ``t+1``, if another one has the size ``t``.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim

from shared.engines.torch_arrays import array_of, tensor_of
from shared.errors import ConfigurationError, ExportError, one_line
from shared.policy.tensor_limits import MAX_NAMED_SIZE, MAX_NAMES, NamedSize, size_of, size_terms
from shared.policy.weights import is_float

Dynamic = Mapping[str, Mapping[int, str | Dim]]
"""The named dimensions of each tensor, by the name of its parameter or its path, such as ``inputs.entities``."""
Sizes = Mapping[str, int]
DimNames = Mapping[int, str]
Range = tuple[int | None, int | None]
"""The smallest and the largest size; None where a trial finds it."""

BATCH = "batch"
EXAMPLE_ROWS = 3  # rows of the example that programs are made with; exporters take 0 and 1 for constants
LARGER_SIZES = (33, 129, 1000)  # code that treats small sizes apart rarely stops later
_UNKNOWN: Range = (None, None)
# Tried one after another. A torch.export.Dim without a smallest size has 0.
_SMALLEST: Mapping[int | None, Sequence[int]] = {None: (1, 2), 0: (0, 1, 2)}
_INSTEAD = 4  # of an example's size of 0 or 1, which exporters take for a constant
_FIRST_ODD = 5
_MOST_CHARACTERS = 80


@dataclass(frozen=True)
class NamedDims:
    """The named sizes of an example.

    Attributes:
        dims: For each tensor, the name or sum of each named dimension.
        example: The sizes of the example.
        ranges: The smallest and the largest size of each name, as far as the user gives them.
    """

    dims: Sequence[DimNames] = ()
    example: Sizes = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def resized(self, tensors: Sequence[Tensor], sizes: Sizes) -> list[Tensor]:
        """Return copies in which the named dimensions have ``sizes``."""
        return [self._resized(number, tensor, sizes) for number, tensor in enumerate(tensors)]

    def _resized(self, number: int, tensor: Tensor, sizes: Sizes) -> Tensor:
        for dim, text in self.dims[number].items() if self.dims else ():
            if (size := size_of(text, sizes)) is not None and size != tensor.shape[dim]:
                tensor = _with_size(tensor, dim, size, number)
        return tensor.clone()

    def shapes(self, batch_dims: Sequence[int | None], named: Sequence[NamedSize], batch: Dim) -> list[dict[int, Dim]]:
        """Return the dynamic dimensions of each tensor for ``torch.export``."""
        known = {size.name: Dim(size.name, min=size.smallest, max=size.largest) for size in named}
        shapes: list[dict[int, Dim]] = [{} if dim is None else {dim: batch} for dim in batch_dims]
        for shape, dims in zip(shapes, self.dims, strict=False):
            shape |= {dim: _dim_of(text, known) for dim, text in dims.items()}
        return shapes


def _dim_of(text: str, known: Mapping[str, Dim]) -> Dim:
    (name, *_), number = size_terms(text)
    return known[name] + number if number else known[name]


def resized(tensors: Sequence[Tensor], batch_dims: Sequence[int | None], size: int | None) -> list[Tensor]:
    """Return copies with ``size`` rows, repeated or cut; tensors without a batch keep their size."""
    if size is None:
        return [tensor.clone() for tensor in tensors]
    return [
        tensor.clone() if dim is None else tensor.index_select(dim, torch.arange(size) % tensor.shape[dim])
        for tensor, dim in zip(tensors, batch_dims, strict=True)
    ]


def _with_size(tensor: Tensor, dim: int, size: int, seed: int) -> Tensor:
    """Repeat or cut ``tensor`` in one dimension. Repeated floats are scaled: equal ones would tie in a choice."""
    own = tensor.shape[dim]
    if own == 0:
        shape = (*tensor.shape[:dim], size, *tensor.shape[dim + 1 :])
        if not tensor.is_floating_point():
            return torch.ones(shape, dtype=tensor.dtype)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(tensor.dtype)
    found = tensor.index_select(dim, torch.arange(size) % own)
    array = array_of(found)
    if size <= own or not is_float(array.dtype):
        return found
    values = array.astype(np.float64)
    finite = np.isfinite(values)
    if (values[finite] == np.round(values[finite])).all():
        return found  # a mask, or counts
    factor = np.random.default_rng([7, seed, dim, size]).uniform(0.5, 1.5, array.shape)
    factor[(slice(None),) * dim + (slice(own),)] = 1
    return tensor_of(np.where(finite, values * factor, values).astype(array.dtype))


def named_dims(dynamic: Dynamic | None, names: Sequence[Sequence[str]], example: Sequence[Tensor]) -> NamedDims:
    """Return the named dimensions of ``example``; ``names`` are those by which each tensor may be called.

    Raises ConfigurationError for a name, a dimension or an example that does not fit.
    """
    if not dynamic:
        return NamedDims(tuple({} for _ in example))
    dims: list[dict[int, str]] = [{} for _ in example]
    ranges: dict[str, Range] = {}
    if not isinstance(dynamic, Mapping) or not all(isinstance(given, Mapping) for given in dynamic.values()):
        raise ConfigurationError(
            'name dimensions in dynamic as {"entities": {1: "n"}}: expected a dict of dicts, '
            f"found {one_line(repr(dynamic), 80)}"
        )
    for tensor_name, given in dynamic.items():
        number = _tensor_number(tensor_name, names)
        for dim, size in given.items():
            text, limits = _read_size(size)
            rank = example[number].ndim
            if not isinstance(dim, int) or not -rank <= dim < rank:
                raise ConfigurationError(
                    f"number the dimensions of {tensor_name} from 0 to {rank - 1} in dynamic: found {dim!r}"
                )
            dims[number][dim % rank] = text
            for name, found in limits.items():
                known = ranges.get(name, _UNKNOWN)
                if _UNKNOWN not in (known, found) and known != found:
                    raise ConfigurationError(f"give {name} one range in dynamic: found {known} and {found}")
                ranges[name] = known if found == _UNKNOWN else found
    sizes = _example_sizes(dims, example)
    _check_sums(dims, sizes)
    _check_example(sizes, ranges)
    return NamedDims(tuple(dims), sizes, {name: ranges[name] for name in sizes})


def _tensor_number(tensor_name: str, names: Sequence[Sequence[str]]) -> int:
    for number, known in enumerate(names):
        if tensor_name in known:
            return number
    expected = ", ".join(known[0] for known in names)
    raise ConfigurationError(
        f"name one of {one_line(expected, 120)} in dynamic: no tensor of the arguments is {one_line(tensor_name, 80)!r}"
    )


def _read_size(size: str | Dim) -> tuple[str, dict[str, Range]]:
    """Return the text of a size, and the range of each name in it."""
    text = size if isinstance(size, str) else str(getattr(size, "__name__", size))
    text = text.replace(" ", "")
    try:
        names, _ = size_terms(text)
    except ValueError as error:
        raise ConfigurationError(f"name a size in dynamic by a string or a torch.export.Dim: {error}") from error
    if BATCH in names:
        raise ConfigurationError(f"choose another name than {BATCH} in dynamic: batch_dims says where the batch is")
    if len(names) > 1:
        raise ConfigurationError(f"give each input in dynamic a size of one name and a number: found {text}")
    root = getattr(size, "root", size)
    if isinstance(root, str):
        return text, {names[0]: _UNKNOWN}
    # A Dim without a largest size has infinity, which is no int.
    return text, {names[0]: (root.min, root.max if isinstance(root.max, int) else None)}


def _example_sizes(dims: Sequence[DimNames], example: Sequence[Tensor]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for names, tensor in zip(dims, example, strict=True):
        for dim, text in names.items():
            if size_terms(text) == ((text,), 0) and sizes.setdefault(text, tensor.shape[dim]) != tensor.shape[dim]:
                raise ConfigurationError(
                    f"pass an example in which {text} is one size, or use two names: found {sizes[text]} and "
                    f"{tensor.shape[dim]}"
                )
    if len(sizes) > MAX_NAMES:
        raise ConfigurationError(f"name at most {MAX_NAMES} sizes in dynamic: found {len(sizes)}")
    for names, tensor in zip(dims, example, strict=True):
        for dim, text in names.items():
            if (size := size_of(text, sizes)) is not None and size != tensor.shape[dim]:
                raise ConfigurationError(
                    f"pass an example in which {text} is {size}: found {tensor.shape[dim]} in dimension {dim}"
                )
    return sizes


def _check_sums(dims: Sequence[DimNames], sizes: Sizes) -> None:
    for names in dims:
        for text in names.values():
            if size_of(text, sizes) is None:
                name = size_terms(text)[0][0]
                raise ConfigurationError(f"name another input's dimension {name} in dynamic: only {text} has that name")


def _check_example(sizes: Sizes, ranges: Mapping[str, Range]) -> None:
    for name, (smallest, largest) in ranges.items():
        low, high = smallest or 0, MAX_NAMED_SIZE if largest is None else largest
        if not 0 <= low <= sizes[name] <= high <= MAX_NAMED_SIZE:
            raise ConfigurationError(
                f"pass an example with {name} from {low} to {high}, or another range: found {name} = {sizes[name]}"
            )


Try = Callable[[Sizes], Exception | None]
"""Return the error of a call of the module with these named sizes, or None."""
Affords = Callable[[Sizes], bool]
"""Return True for sizes at which calls of the module take about a tenth of a second at most."""


def program_sizes(named: NamedDims) -> dict[str, int]:
    """Return the sizes that programs are made with: those of the example, or others where it has 0 or 1."""
    sizes = {}
    for name, size in named.example.items():
        largest = named.ranges[name][1]
        sizes[name] = size if size > 1 else _INSTEAD if largest is None else max(size, min(_INSTEAD, largest))
    return sizes


def find_ranges(named: NamedDims, made_with: Sizes, attempt: Try, is_affordable: Affords) -> tuple[NamedSize, ...]:
    """Return the range of each name: as given, or as far as the module accepts it. Raises ExportError."""
    found = []
    for name, given in named.ranges.items():
        trial = _Trial(name, made_with, attempt, is_affordable)
        smallest, largest = trial.smallest(given[0]), trial.largest(given[1])
        if smallest == largest:
            raise ExportError(f"leave {name} out of dynamic: the module accepts {name} = {smallest} alone")
        found.append(NamedSize(name, smallest, largest))
    return tuple(found)


@dataclass(frozen=True)
class _Trial:
    name: str
    made_with: Sizes
    attempt: Try
    is_affordable: Affords

    def _error(self, size: int) -> Exception | None:
        return self.attempt({**self.made_with, self.name: size})

    def _required(self, size: int) -> int:
        if (error := self._error(size)) is not None:
            raise refused_size({self.name: size}, error) from error
        return size

    def smallest(self, given: int | None) -> int:
        *others, last = _SMALLEST[given] if not given else (given,)
        for size in others:
            if self._error(size) is None:
                return size
        return self._required(last)

    def largest(self, given: int | None) -> int:
        """Return ``given``, or else the largest of ``LARGER_SIZES``, or of those below, that the module accepts."""
        if given is not None:
            return self._required(given)
        accepted = self.made_with[self.name]
        for size in LARGER_SIZES:
            if size <= accepted:
                continue
            if not self.is_affordable({**self.made_with, self.name: size}):
                break
            if self._error(size) is not None:
                return self._largest_between(accepted, size)
            accepted = size
        return accepted

    def _largest_between(self, accepted: int, refused: int) -> int:
        while refused - accepted > 1:
            middle = (accepted + refused) // 2
            accepted, refused = (middle, refused) if self._error(middle) is None else (accepted, middle)
        return accepted


def refused_size(sizes: Sizes, error: Exception) -> ExportError:
    """Return the error for sizes within the ranges that the module itself does not accept."""
    said = one_line(f"{type(error).__name__}: {error}", _MOST_CHARACTERS)
    found = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    name = next(iter(sizes))
    return ExportError(
        f'give a range that the module accepts, such as torch.export.Dim("{name}", min=2, max=8): '
        f"it has to take every size, and fails for {found} ({said})"
    )


def sizes_to_check(ranges: Sequence[NamedSize], made_with: Sizes) -> Iterator[tuple[Sizes, bool]]:
    """Yield sizes to compare programs for, and True where the module has to accept them.

    All names have their smallest, 2, an odd size each, and their largest; then one name after another has its largest.
    """
    if not ranges:
        return
    seen: list[Sizes] = [dict(made_with)]

    def new(sizes: Sizes) -> bool:
        is_new = sizes not in seen
        seen.append(sizes)
        return is_new

    def within(size: int, named: NamedSize) -> int:
        return max(named.smallest, min(size, named.largest))

    smallest = {named.name: named.smallest for named in ranges}
    largest = {named.name: named.largest for named in ranges}
    twos = {named.name: within(2, named) for named in ranges}
    odd = {named.name: within(_FIRST_ODD + 2 * number, named) for number, named in enumerate(ranges)}
    for sizes, is_required in ((smallest, True), (twos, True), (odd, True), (largest, len(ranges) == 1)):
        if new(sizes):
            yield sizes, is_required
    for named in ranges:
        if new(sizes := {**made_with, named.name: named.largest}):
            yield sizes, True


def sum_of(values: Sequence[int], sizes: Sequence[Sizes]) -> str | None:
    """Return the name, or the sum of up to three names and a number, that has ``values`` for ``sizes``, or None."""
    choices = (itertools.combinations(sizes[0], count) for count in range(1, 4))
    for terms in itertools.chain.from_iterable(choices):
        rests = {value - sum(known[name] for name in terms) for value, known in zip(values, sizes, strict=True)}
        if len(rests) == 1:
            (number,) = rests
            return "+".join(terms) + (f"{number:+d}" if number else "")
    return None
