"""TorchScript archives with names that depend on their program alone.

torch numbers the classes that a process has compiled before (``___torch_mangle_7``), so two exports of one module would
be two programs. Here the classes of an archive are numbered in the order in which it refers to them.
"""

import pickletools
import re
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from shared.errors import ProgramError
from shared.policy.torchscript_archive import Entry, build_archive, read_archive
from shared.scripting.scripting import ScriptModule, load_archive, save_archive

_MANGLE = re.compile(r"\.___torch_mangle_\d+")
_QUALIFIED = re.compile(r"__torch__(?:\.\w+)+")
_DEFINITION = re.compile(r"^(?:class|def) (\w+)", re.MULTILINE)
_OBJECTS = ("data.pkl", "constants.pkl")


def with_canonical_names(module: ScriptModule) -> ScriptModule:
    """Return ``module`` with canonical class names. Its tensors are shared. Raises ProgramError."""
    renamed = load_archive(canonical_archive(save_archive(module)))
    tensors = dict(_tensors(module))
    for name, tensor in _tensors(renamed):
        tensor.data = tensors[name].data
    return renamed


def _tensors(module: ScriptModule) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def canonical_archive(data: bytes) -> bytes:
    """Return the archive with its classes and functions numbered in the order of their use. Raises ProgramError."""
    entries = {name: bytes(content) for name, content in read_archive(data).items()}
    definitions = dict(_definitions(entries))
    names = _numbered(entries, definitions)

    def renamed(text: str) -> str:
        return _QUALIFIED.sub(lambda match: _replace(match[0], names), text)

    kept: dict[str, Entry] = {name: content for name, content in entries.items() if not name.startswith("code/")}
    for name in _OBJECTS:
        if name in entries:
            kept[name] = _rewritten(entries[name], renamed)
    for old, new in names.items():
        path = new.rpartition(".")[0].replace(".", "/")
        kept[f"code/{path}.py"] = renamed(definitions[old]).encode()
    return build_archive(kept)


def _definitions(entries: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the qualified name and the source of each class and function."""
    for name, content in entries.items():
        if not (name.startswith("code/") and name.endswith(".py")):
            continue
        prefix = name.removeprefix("code/").removesuffix(".py").replace("/", ".")
        code = content.decode()
        found = [*_DEFINITION.finditer(code)]
        if not found or code[: found[0].start()].strip():
            raise ProgramError(f"{name}: expected classes and functions only")
        ends = [match.start() for match in found[1:]] + [len(code)]
        for match, end in zip(found, ends, strict=True):
            yield f"{prefix}.{match[1]}", code[match.start() : end]


def _numbered(entries: Mapping[str, bytes], definitions: Mapping[str, str]) -> dict[str, str]:
    """Return the new name of each definition, in the order of use, with those that nothing refers to at the end."""
    order: dict[str, None] = {}

    def visit(text: str) -> None:
        for match in _QUALIFIED.finditer(text):
            name = _known(match[0], definitions)
            if name is not None and name not in order:
                order[name] = None
                pending.append(name)

    pending: list[str] = []
    for name in _OBJECTS:
        if name in entries:
            for op, arg, _ in pickletools.genops(entries[name]):
                if op.name in ("GLOBAL", "BINUNICODE"):
                    visit(str(arg).replace(" ", "."))
    while pending:
        visit(definitions[pending.pop(0)])
    for name in sorted(definitions, key=lambda name: (_MANGLE.sub("", name), definitions[name])):
        order.setdefault(name)
    return {name: _numbered_name(name, number) for number, name in enumerate(order)}


def _numbered_name(name: str, number: int) -> str:
    prefix, _, last = _MANGLE.sub("", name).rpartition(".")
    return f"{prefix}.___torch_mangle_{number}.{last}"


def _known(name: str, names: Mapping[str, str]) -> str | None:
    """Return the definition that ``name`` begins with: members of a class may follow."""
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name or None


def _replace(name: str, names: Mapping[str, str]) -> str:
    known = _known(name, names)
    return name if known is None else names[known] + name[len(known) :]


def _rewritten(pickled: bytes, change: Callable[[str], str]) -> bytes:
    """Return a pickle with its class names and texts changed."""
    ops = [(op.name, arg, place) for op, arg, place in pickletools.genops(pickled) if place is not None]
    ends = [place for *_, place in ops[1:]] + [len(pickled)]
    parts = []
    for (kind, arg, place), end in zip(ops, ends, strict=True):
        part = pickled[place:end]
        if kind == "GLOBAL" and isinstance(arg, str):
            module, _, name = change(arg.replace(" ", ".")).rpartition(".")
            part = f"c{module}\n{name}\n".encode()
        elif kind == "BINUNICODE" and isinstance(arg, str) and "__torch__" in arg:
            text = change(arg).encode()
            part = b"X" + len(text).to_bytes(4, "little") + text
        parts.append(part)
    return b"".join(parts)
