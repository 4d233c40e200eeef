"""The form of a call: positional or by keyword, with or without arguments that are equal to their defaults."""

from collections.abc import Sequence
from typing import Any

from msgspec import UnsetType

from shared.errors import SignatureMismatch, one_line
from shared.policy.nested_values import DictNode, SequenceNode, flatten, unflatten
from shared.policy.signature import ModuleSignature, Parameter

_MISSING = object()


class CallForm:
    """Arranges the arguments of a call as those of the example, with which the module was exported.

    Attributes:
        count: the number of positional arguments of the example.
        keywords: the names of its keyword arguments. A call with the same count and names has its form.
    """

    def __init__(self, signature: ModuleSignature) -> None:
        given = signature.arguments
        args, kwargs = given.items if isinstance(given, DictNode) and len(given.items) == 2 else (None, None)
        self._parameters: Sequence[Parameter] = ()
        self.count = len(args.items) if isinstance(args, SequenceNode) else 0
        self.keywords = dict.fromkeys(map(str, kwargs.keys)).keys() if isinstance(kwargs, DictNode) else {}.keys()
        if isinstance(signature.parameters, tuple):
            self._parameters = signature.parameters
        self._positional = [p for p in self._parameters if p.kind in ("positional_only", "any")]
        self._named = {p.name: p for p in self._parameters if p.kind in ("any", "keyword_only")}
        self._takes_any = any(p.kind == "kwargs" for p in self._parameters)

    def arranged(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments in the form of the example. Raises SignatureMismatch if ``forward`` has no such call."""
        if not self._parameters:
            return args, kwargs
        given = self._bound(args, kwargs)
        extra = args[len(self._positional) :]
        placed = self._positional[: self.count]
        by_position = tuple(self._taken(given, parameter.name) for parameter in placed) + extra
        by_keyword = {name: self._taken(given, name) for name in self.keywords}
        for name, value in given.items():
            self._check_left_out(name, value)
        return by_position, by_keyword

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        given = dict(zip((p.name for p in self._positional), args, strict=False))
        if len(args) > len(self._positional) and not any(p.kind == "args" for p in self._parameters):
            raise SignatureMismatch(f"pass at most {len(self._positional)} positional arguments: found {len(args)}")
        for name, value in kwargs.items():
            if name not in self._named and not self._takes_any:
                known = one_line(", ".join(self._named), 120)
                raise SignatureMismatch(f"pass arguments of forward ({known}): it has none named {one_line(name, 80)}")
            if name in given:
                raise SignatureMismatch(f"pass {name} once: it is given by position and by keyword")
            given[name] = value
        return given

    def _taken(self, given: dict[str, Any], name: str) -> Any:
        if (value := given.pop(name, _MISSING)) is not _MISSING:
            return value
        parameter = next((p for p in self._parameters if p.name == name), None)
        if parameter is None or isinstance(parameter.default, UnsetType):
            raise SignatureMismatch(f"pass {one_line(name, 80)}: forward has no default for it")
        return unflatten(parameter.default, ())

    def _check_left_out(self, name: str, value: Any) -> None:
        """Raise SignatureMismatch unless ``value``, which the example leaves out, is the default."""
        parameter = self._named.get(name) or next((p for p in self._positional if p.name == name), None)
        if parameter is None or isinstance(parameter.default, UnsetType):
            raise SignatureMismatch(f"leave {one_line(name, 80)} out, or export again with it: the example has none")
        try:
            flatten(parameter.default, value, name)
        except SignatureMismatch as error:
            raise SignatureMismatch(f"leave {one_line(name, 80)} out, or export again with it: {error}") from error
