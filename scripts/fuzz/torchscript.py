"""TorchScript archives: the reader of archives, the program digest, and the check of operators."""

import contextlib
from random import Random

from shared.errors import ProgramError
from shared.operators.program_check import check_archive
from shared.operators.program_trust import PURE_ONLY
from shared.policy.program_digest import program_digest
from shared.policy.torchscript_archive import build_archive, read_archive

_SNIPPETS = (
    *("def forward(self: __torch__.P, x: Tensor) -> Tensor:\n  return x\n", "while True:", "a.b.c = d", "print(x)"),
    *("torch.add(x, y, alpha=1)", "ops.aten.sym_size(x, 0)", "annotate(List[int], [])", "uninitialized(Tensor)"),
    *("CONSTANTS.c0", "__torch__.P", "if bool(x):\n    y = x\n  else:\n    y = x\n", "-9223372036854775808", "x[0]"),
    *("  __parameters__ = []\n", "(x, y,)", "lambda x: x", "f'{x}'", "[i for i in x]", "del x", "@a\n", "\x00"),
)


def run(data: bytes) -> None:
    """Read ``data``, check its operators, and build it again. Nothing is loaded into torch."""
    entries = read_archive(data)
    program_digest("torchscript", data)
    loaded = read_archive(build_archive(entries))
    assert all(entries[name] == content for name, content in loaded.items())
    check_archive(entries, PURE_ONLY)


def mutate(data: bytes, random: Random) -> bytes:
    """Change one entry and write the archive again, so that the change is not caught by the archive's checksums."""
    with contextlib.suppress(ProgramError):
        entries = read_archive(data)
        name = random.choice([name for name in entries if name.startswith("code/") or name.endswith(".pkl")] or ["x"])
        content = bytearray(bytes(entries.get(name, b"")))
        for _ in range(random.choice((1, 2, 5))):
            _edit(content, random)
        return build_archive({**entries, name: bytes(content)})
    return data


def _edit(content: bytearray, random: Random) -> None:
    begin = random.randrange(len(content) + 1)
    end = min(len(content), begin + random.choice((0, 1, 4, 30)))
    match random.randrange(5):
        case 0:
            content[begin:end] = random.choice(_SNIPPETS).encode()
        case 1:
            del content[begin:end]
        case 2:
            lines = content.split(b"\n")
            lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
            content[:] = b"\n".join(lines)
        case 3 if content:
            content[begin % len(content)] = random.randrange(256)
        case _:
            source = random.randrange(len(content) + 1)
            content[begin:end] = content[source : source + random.randrange(40)]
