"""The ``code/`` of a TorchScript archive as syntax trees. TorchScript is a subset of Python's grammar.

Text that Python and TorchScript could read differently is refused: comments (TorchScript reads types in some), string
prefixes, joined strings, continued lines, and characters other than printable ASCII.
"""

import ast
import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from shared.errors import ProgramError

RESERVED = frozenset(("torch", "ops", "CONSTANTS", "__torch__"))
"""Names with a fixed meaning in serialized code, which nothing may rebind."""

# One string on one line, without a prefix, and not next to another string.
_ESCAPE = r"""\\(?:[\\'"abfnrtv]|[0-3][0-7]{2})"""
_STRING = re.compile(rf"""(?<![\w'"])(?:'(?:[^'\\\n]|{_ESCAPE})*'|"(?:[^"\\\n]|{_ESCAPE})*")(?!["'])""")
_STRANGE = re.compile(r"""[^\n -~]|[#;\\"']""")
_NUMBER = re.compile(r"(?<![\w.])\d[\w.]*(?:(?<=e)[+-]\d+)?")
_PLAIN_NUMBER = re.compile(r"(?:0|[1-9]\d*)(?:\.\d*)?(?:e[+-]?\d+)?")
_MOST_BYTES = 4 * 2**20
_PARSE_ATTEMPTS = 5
_LITERALS = (ast.Constant, ast.UnaryOp, ast.USub, ast.Tuple, ast.List, ast.Dict, ast.Load)


@dataclass(frozen=True)
class ScriptClass:
    """One class of the code: its methods, and attributes with a value in the class body."""

    name: str
    is_module: bool
    is_tuple: bool
    methods: Mapping[str, ast.FunctionDef]
    constants: Mapping[str, ast.expr]


@dataclass
class Definitions:
    """All classes and functions of an archive by their qualified names, such as ``__torch__.package.Class``."""

    classes: dict[str, ScriptClass] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    """Names of the attributes and methods of all classes."""


def read_code(files: Mapping[str, bytes]) -> Definitions:
    """Return the definitions in ``files``, named like ``code/__torch__/package.py``. Raises ProgramError."""
    found = Definitions()
    if sum(map(len, files.values())) > _MOST_BYTES:
        raise ProgramError(f"expected at most {_MOST_BYTES} bytes of code")
    for path, content in files.items():
        prefix = path.removeprefix("code/").removesuffix(".py").replace("/", ".")
        tree = _parse(path, content)
        for statement in tree.body:
            _define(found, prefix, statement)
    return found


def _parse(path: str, content: bytes) -> ast.Module:
    try:
        text = content.decode("ascii")
        _check_text(path, text)
        return _parse_text(text)
    except (UnicodeDecodeError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ProgramError(f"{path}: not the code of a TorchScript archive: {type(error).__name__}: {error}") from error


def _parse_text(text: str) -> ast.Module:
    # Python 3.11 raises SystemError ("recursion depth mismatch") when another thread parses at the same time and a
    # garbage collection lets the threads alternate: https://github.com/python/cpython/issues/106905
    for _ in range(_PARSE_ATTEMPTS - 1):
        with contextlib.suppress(SystemError):
            return ast.parse(text)
    return ast.parse(text)


def _check_text(path: str, text: str) -> None:
    code = _STRING.sub("", text)
    strange = _STRANGE.search(code)
    found = strange[0] if strange else next((n for n in _NUMBER.findall(code) if not _PLAIN_NUMBER.fullmatch(n)), None)
    if found is not None:
        raise ProgramError(f"{path}: expected code as torch writes it, found {found!r}")


def _define(found: Definitions, prefix: str, statement: ast.stmt) -> None:
    match statement:
        case ast.FunctionDef(name=name) if not statement.decorator_list:
            _add(found, f"{prefix}.{name}")
            _check_function(statement)
            found.functions[f"{prefix}.{name}"] = statement
        case ast.ClassDef(name=name):
            _add(found, f"{prefix}.{name}")
            found.classes[f"{prefix}.{name}"] = _read_class(f"{prefix}.{name}", statement)
            found.members.update(_members(statement))
        case _:
            raise ProgramError(f"{prefix}: expected classes and functions, found {type(statement).__name__}")


def _add(found: Definitions, name: str) -> None:
    if name in found.classes or name in found.functions:
        raise ProgramError(f"expected one definition of {name}, found two")


def _read_class(name: str, statement: ast.ClassDef) -> ScriptClass:
    if statement.decorator_list or statement.keywords:
        raise ProgramError(f"{name}: expected a class without decorators and keywords")
    methods: dict[str, ast.FunctionDef] = {}
    constants: dict[str, ast.expr] = {}
    for part in statement.body:
        match part:
            case ast.FunctionDef(name=method) if method not in methods and not part.decorator_list:
                methods[method] = part
            case ast.AnnAssign(target=ast.Name(id=attribute), value=value) if attribute not in constants:
                if value is not None:
                    constants[attribute] = value
            case ast.Assign(targets=[ast.Name(id=attribute)], value=value) if attribute not in constants:
                constants[attribute] = value
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id="__annotations__"))]) | ast.Pass():
                pass
            case _:
                raise ProgramError(f"{name}: expected attributes and methods, found {ast.unparse(part)[:80]!r}")
    for method_definition in methods.values():
        _check_function(method_definition)
    _check_literals(name, constants.values())
    bases = [ast.unparse(base) for base in statement.bases]
    return ScriptClass(name, bases == ["Module"], bases == ["NamedTuple"], methods, constants)


def _members(statement: ast.ClassDef) -> Iterator[str]:
    for part in statement.body:
        match part:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Subscript(slice=ast.Constant(value=str(name)))]):
                yield name


def _check_function(function: ast.FunctionDef) -> None:
    arguments = function.args
    if arguments.vararg or arguments.kwarg or arguments.posonlyargs:
        raise ProgramError(f"{function.name}: expected named parameters")
    _check_literals(function.name, [*arguments.defaults, *arguments.kw_defaults])


def _check_literals(where: str, values: Iterable[ast.expr | None]) -> None:
    """Raise ProgramError for a default or constant that is computed: torch runs it while it loads."""
    for value in values:
        if value is None:
            continue
        for node in ast.walk(value):
            is_name = isinstance(node, ast.Name) and node.id in ("inf", "nan")
            if not isinstance(node, _LITERALS) and not is_name:
                raise ProgramError(f"{where}: expected a literal value, found {ast.unparse(value)[:80]!r}")
