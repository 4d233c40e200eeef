import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.engines.torchscript import TorchScriptEngine
from shared.errors import OperatorNotAllowed, ProgramError
from shared.operators.program_check import check_program
from shared.operators.program_trust import PURE_ONLY, ProgramTrust
from shared.scripting.script_modules import without_torch_warnings
from shared.scripting.scripting import save_archive, script, trace
from tests.support.script_archives import CLASS, SMALL_WEIGHTS, Small, small_archive, with_body, with_entries

_PREFIX = CLASS.rpartition(".")[0]
_FIRST = "x = inputs[0]"

ATTACKS = {
    "reads a file": ('y = torch.from_file("{file}", False, 3)\nreturn [y]', "from_file"),
    "creates a file": ('y = torch.from_file("{file}", True, 3)\nreturn [x, y]', "from_file"),
    "saves": ('torch.save(x, "{file}")\nreturn [x]', "save"),
    "prints": ("print(x)\nreturn [x]", "print"),
    "warns": ('torch.warn("a", 2)\nreturn [x]', "warn"),
    "sets the seed": ("torch.manual_seed(1)\nreturn [x]", "manual_seed"),
    "is random": ("return [torch.rand([3])]", "rand"),
    "draws like its input": ("return [torch.randn_like(x)]", "randn_like"),
    "draws by a method": ("return [(torch.clone(x)).normal_(0., 1.)]", "normal_"),
    "draws from probabilities": ("return [torch.bernoulli(x)]", "bernoulli"),
    "shows old memory": ("return [torch.empty([3])]", "empty"),
    "shows old memory by a method": ("return [x.new_empty([3])]", "new_empty"),
    "drops out in training": ("return [torch.dropout(x, 0.5, True)]", "dropout"),
    "drops out if an input says so": ("return [torch.dropout(x, 0.5, bool(x[0]))]", "dropout"),
    "writes into its input": ("return [torch.add_(x, 1)]", "add_"),
    "writes into a view of its input": ("y = torch.select(x, 0, 0)\nz = torch.fill_(y, 1)\nreturn [x]", "fill_"),
    "writes into an input by a method": ("y = x.mul_(2)\nreturn [x]", "mul_"),
    "writes into an input in a list": ("a = [torch.zeros([3]), x]\ny = torch.zero_(a[1])\nreturn [x]", "zero_"),
    "writes into an input in a tuple": ("a = (x, 1)\ny, z, = a\nw = torch.zero_(y)\nreturn [x]", "zero_"),
    "writes into an input that it returned": ("a = (self).same(x, )\ny = torch.zero_(a)\nreturn [x]", "zero_"),
    "writes into one of two": (
        "if torch.eq(torch.dim(x), 2):\n  y = torch.clone(x)\nelse:\n  y = x\nz = torch.zero_(y)\nreturn [x]",
        "zero_",
    ),
    "writes into an input from the second lap on": (
        "y = torch.zeros([3])\nfor i in range(3):\n  z = torch.add_(y, 1)\n  y = x\nreturn [x]",
        "add_",
    ),
    "writes into an output argument": ("y = torch.add(x, x, out=x)\nreturn [x]", "add"),
    "counts in a buffer": ("count = self.count\ny = torch.add_(count, 1)\nreturn [torch.add(x, y)]", "add_"),
    "counts in an attribute": ("self.steps = torch.add(self.steps, 1)\nreturn [x]", "setattr"),
    "replaces a weight": ("self.weight = x\nreturn [x]", "setattr"),
    "remembers in a list": ('names = self.names\ny = torch.append(names, "c")\nreturn [x]', "append"),
    "sorts a list of its own": ("names = self.names\ntorch.sort(names)\nreturn [x]", "sort"),
    "changes the caller's list": ("y = torch.append(inputs, x)\nreturn [x]", "append"),
    "replaces an element of the caller's list": ("inputs[0] = torch.zeros([3])\nreturn [x]", "_set_item"),
    "loops for ever": ("while True:\n  y = torch.add(x, 1)\nreturn [x]", "while"),
    "starts a thread": ("y = fork(x)\nreturn [x]", "fork"),
    "calls another library": ("return [ops.torchvision.nms(x, x, 0.5)]", "torchvision::nms"),
    "waits for another machine": ('return [rpc_sync("a", "b", (x,))]', "rpc_sync"),
    "turns gradients on": ("torch.set_grad_enabled(True)\nreturn [x]", "set_grad_enabled"),
    "hides behind a name": ("f = __torch__.tests.support.script_archives.evil\nreturn [f(x, )]", "rand"),
    "hides in a method": ("return [(self).evil(x, )]", "rand"),
    "hides behind a constant that may be none": (
        "y = uninitialized(Optional[Tensor])\nif torch.__is__(y, None):\n  z = torch.rand([3])\nelse:\n  z = x\n"
        "return [z]",
        "rand",
    ),
    "hides in a record's shape": (
        "y = __torch__.tests.support.script_archives.Record(x)\nz = torch.zero_(y.shape)\nreturn [x]",
        "zero_",
    ),
    "calls a method of an unknown object": ("ms = [self]\nm = ms[0]\nreturn [(m).relu(x, )]", "relu"),
    "hides behind a number that wraps around": (
        "if torch.eq(torch.mul(1099511627776, 1099511627776), 0):\n  y = torch.rand([3])\nelse:\n  y = x\nreturn [y]",
        "rand",
    ),
    "fills a list through a tuple in a list": (
        "a = annotate(List[Tensor], [])\nb = [(a, 1)]\nc, n, = b[0]\nd = torch.append(c, x)\n"
        "y = torch.zero_(a[0])\nreturn [x]",
        "zero_",
    ),
    "fills a list through a record": (
        "a = annotate(List[Tensor], [])\nb = __torch__.tests.support.script_archives.Lists(a)\n"
        "d = torch.append(b.items, x)\ny = torch.zero_(a[0])\nreturn [x]",
        "zero_",
    ),
    "joins lists of views": (
        "a = torch.add(torch.chunk(x, 1), torch.chunk(x, 1))\ny = torch.zero_(a[0])\nreturn [x]",
        "zero_",
    ),
    "extends a list in place": (
        "a = annotate(List[Tensor], [])\nb = torch.add_(a, inputs)\ny = torch.zero_(a[0])\nreturn [x]",
        "zero_",
    ),
    "takes values out of a dict": (
        'd = {"k": [x]}\nfor i in range(1):\n  k, v, = (torch.items(d))[0]\n  y = torch.zero_(v[0])\nreturn [x]',
        "zero_",
    ),
    "has constants whose order the digest ignores": ("y : Final[Tensor] = x\nreturn [x]", "Final"),
    "calls a module that is named like a function": ("range = self\nfor i in range(x):\n  y = x\nreturn [x]", "for"),
    "has a loop with another end": ("for i in range(2):\n  y = x\nelse:\n  y = torch.rand([3])\nreturn [x]", "For"),
    "has an unknown name": ("return [torch.no_such_operator(x)]", "no_such_operator"),
    "has unknown syntax": ("return [inputs[i] for i in range(1)]", "ListComp"),
}
_METHODS = f"""
def same(self: {CLASS},
    x: Tensor) -> Tensor:
  return x
def relu(self: {CLASS},
    x: Tensor) -> Tensor:
  return torch.rand([3])
def evil(self: {CLASS},
    x: Tensor) -> Tensor:
  return torch.rand([3])
"""
_DEFINITIONS = """\
class Lists(NamedTuple):
  items : List[Tensor]
class Record(NamedTuple):
  shape : Tensor
def evil(x: Tensor) -> Tensor:
  return torch.rand([3])
"""


def attack(body: str, file: object = "/nowhere") -> bytes:
    lines = f"{_FIRST}\n{body}".replace("{file}", str(file))
    return with_body(lines, methods=_METHODS, definitions=_DEFINITIONS)


def check(archive: bytes, *allowed: str) -> bool:
    """Return whether data steers the program. Raises OperatorNotAllowed."""
    return check_program("torchscript", archive, ProgramTrust(allowed_operators=allowed)).data_dependent


@pytest.mark.parametrize("name", ATTACKS)
def test_operators_with_effects_are_refused_by_name(name: str) -> None:
    body, operator = ATTACKS[name]
    with pytest.raises(OperatorNotAllowed, match=rf"replace {re.escape(operator)}, which .*--allow-operator"):
        check(attack(body))


def test_an_attack_by_torch_itself_is_refused_before_it_runs(tmp_path: Path) -> None:
    made = attack(*ATTACKS["creates a file"][:1], file=tmp_path / "made")
    with pytest.raises(OperatorNotAllowed):
        check(made)
    assert not (tmp_path / "made").exists()
    TorchScriptEngine.from_bytes(made, SMALL_WEIGHTS).run([np.ones(3, np.float32)])
    assert (tmp_path / "made").exists(), "torch itself does not protect against it"


class RunsWhileItLoads(nn.Module):
    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 1, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.training = state[1]

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return inputs


def test_code_that_runs_while_an_archive_is_loaded_is_refused() -> None:
    with pytest.raises(OperatorNotAllowed, match="__setstate__"):
        check(save_archive(script(RunsWhileItLoads().eval())))


def test_a_computed_default_is_refused() -> None:
    method = f"def late(self: {CLASS},\n    x: Tensor=torch.rand([3])) -> Tensor:\n  return x"
    with pytest.raises(ProgramError, match="literal value"):
        check(with_body("return inputs", methods=method))


def test_native_classes_are_refused() -> None:
    pickled = b"\x80\x02c__torch__.torch.classes.quantized\nLinearPackedParams\n)\x81}b."
    with pytest.raises(OperatorNotAllowed, match=r"torch\.classes\.quantized"):
        check(with_entries({"data.pkl": pickled}))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"(X\x04\x00\x00\x00trueios\nsystem\n.", "opcodes"),
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "objects of the archive"),
        (b"\x80\x02N.N.", "nothing after its end"),
        (b"\x80\x02N.", "a module"),
        (b"", "data.pkl"),
    ],
)
def test_other_pickles_are_refused_unread(pickled: bytes, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        check(with_entries({"data.pkl": pickled}))


@pytest.mark.parametrize(
    "body",
    [
        "y = torch.clone(x)\nz = torch.add_(y, 1)\nreturn [y]",
        "y = torch.mul(x, 2)\nz = torch.fill_(torch.select(y, 0, 0), 1)\nreturn [y]",
        "ys = annotate(List[Tensor], [])\nfor i in range(3):\n  y = torch.append(ys, torch.mul(x, i))\nreturn ys",
        "y = torch.relu_(torch.linear(x, self.weight))\nreturn [y]",
        "if self.training:\n  y = torch.rand([3])\nelse:\n  y = x\nreturn [y]",
        "training = self.training\nreturn [torch.dropout(x, 0.5, training)]",
        "return [torch.dropout(x, 0., True)]",
        "return [torch.scaled_dot_product_attention(x, x, x)]",
        'if torch.ne(torch.dim(x), 1):\n  ops.prim.RaiseException("no")\nelse:\n  pass\nreturn [x]',
        'a = {{"k": torch.zeros([3])}}\na["k"] = x\nreturn [a["k"]]'.replace("{{", "{").replace("}}", "}"),
    ],
)
def test_pure_programs_pass(body: str) -> None:
    assert not check(attack(body))


@pytest.mark.parametrize(
    "body",
    [
        "if bool(torch.gt(torch.sum(x), 0)):\n  y = x\nelse:\n  y = torch.neg(x)\nreturn [y]",
        "for i in range(int(x[0])):\n  y = torch.add(x, 1)\nreturn [x]",
        "return [torch.zeros([torch.item(self.count)])]",
        "return [torch.nonzero(x)]",
        "return [torch.repeat_interleave(x, x)]",
        "return [torch.masked_select(x, torch.gt(x, 0))]",
        "return torch.where(x)",
    ],
)
def test_programs_that_values_steer_are_marked(body: str) -> None:
    assert check(attack(body))


def test_an_operator_may_be_allowed_by_name() -> None:
    archive = attack("print(x)\nreturn [torch.rand([3])]")
    with pytest.raises(OperatorNotAllowed, match="replace rand"):
        check(archive, "print")
    assert check(archive, "print", "rand"), "nothing is known of them"


def test_an_allowed_assignment_makes_attributes_unknown() -> None:
    archive = attack("self.training = True\nreturn [torch.dropout(x, 0.5, self.training)]")
    with pytest.raises(OperatorNotAllowed, match="dropout"):
        check(archive, "setattr")


def test_a_trusted_program_may_use_any_operators() -> None:
    traits = check_program("torchscript", attack("print(x)\nreturn [x]"), ProgramTrust(programs=True))
    assert traits.data_dependent


def test_every_refused_operator_is_named() -> None:
    with pytest.raises(OperatorNotAllowed, match="Also not allowed: rand, save") as refused:
        check(attack('print(x)\ntorch.save(x, "f")\nreturn [torch.rand([3])]'))
    assert len(str(refused.value)) < 300


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.lstm = nn.LSTM(8, 4, num_layers=2, dropout=0.3)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.1)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        hidden = self.body(inputs[0])
        hidden[:, 0] = 1.0
        out, _ = self.lstm(hidden.unsqueeze(0))
        seen, _ = self.attention(out, out, out)
        return [seen.squeeze(0), out]


@pytest.mark.parametrize("make", [script, lambda module: trace(module, ([torch.ones(2, 3)],))], ids=["script", "trace"])
def test_layers_in_evaluation_mode_are_pure_and_not_steered_by_values(make: object) -> None:
    with without_torch_warnings():
        archive = save_archive(make(Layers().eval()))  # type: ignore[operator]
    traits = check_program("torchscript", archive, PURE_ONLY)
    assert not traits.data_dependent
    assert {"linear", "lstm", "batch_norm"} <= set(traits.operators)


def test_layers_in_training_mode_are_refused() -> None:
    with pytest.raises(OperatorNotAllowed, match=r"replace add_.*dropout"):
        check(save_archive(script(Layers().train())))


def test_the_small_archive_passes_and_computes_what_it_should() -> None:
    assert not check(small_archive())
    (found, _) = TorchScriptEngine.from_bytes(small_archive(), SMALL_WEIGHTS).run([np.ones((1, 3), np.float32)])
    (expected, _) = Small()([torch.ones(1, 3)])
    np.testing.assert_array_equal(found, expected.detach().numpy())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("return [x] # type: ignore", "#"),
        ("y = f'a'\nreturn [x]", "'"),
        ("y = r'\\'\nreturn [x]", "'"),
        ("y = 'a' 'b'\nreturn [x]", None),
        ("y = '''a'''\nreturn [x]", "'"),
        ("y = torch.add(x, \\\n1)\nreturn [x]", r"\\\\"),
        ("y = x; z = x\nreturn [x]", ";"),
        ("y = x\rz = torch.rand([3])\nreturn [x]", r"\\r"),
        ("y = x\x0cz = x\nreturn [x]", r"\\x0c"),
        ("y = \x00\nreturn [x]", r"\\x00"),
        ("\ty = x\nreturn [x]", r"\\t"),
        ("y = torch.add(0x10, 1)\nreturn [x]", "0x10"),
        ("y = torch.add(1_0, 1)\nreturn [x]", "1_0"),
        ("y = torch.add(1j, 1)\nreturn [x]", "1j"),
        ('y = "\\x41"\nreturn [x]', '"'),
        ('y = "\\u0041"\nreturn [x]', '"'),
    ],
)
def test_text_that_two_readers_may_read_differently_is_refused(text: str, found: str | None) -> None:
    archive = attack(text)
    if found is None:
        check(archive)  # both readers join the strings
        return
    with pytest.raises(ProgramError, match=f"found .{found}"):
        check(archive)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("torch = x\nreturn [torch]", "no variable named torch"),
        ("ops = x\nreturn [ops]", "no variable named ops"),
        ("return [y]", "a value for the name y"),
        ("return [(self).absent(x, )]", "has no method absent"),
        ("return [__torch__.absent(x)]", "the code of __torch__.absent"),
        ("return [(self).forward(inputs, )]", "nested at most"),
        (f"return [{'-' * 5000}x]", "not the code|too deep"),
        ("return [" + "(" * 500 + "x" + ")" * 500 + "]", "not the code"),
        ("return x x", "not the code"),
    ],
)
def test_code_that_torch_does_not_write_is_refused(body: str, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        check(attack(body))


def test_objects_that_are_nested_too_deep_are_refused() -> None:
    pickled = b"\x80\x02" + b"c__torch__\nA\n)\x81}X\x01\x00\x00\x00a" * 3000 + b"N" + b"sb" * 3000 + b"."
    with pytest.raises(ProgramError, match="nested"):
        check(with_entries({"data.pkl": pickled}))


def test_a_program_that_takes_too_long_to_check_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    many = "def f0(x: Tensor) -> Tensor:\n  return torch.neg(x)\n" + "".join(
        f"def f{i}(x: Tensor) -> Tensor:\n  y = {_PREFIX}.f{i - 1}(x)\n  return {_PREFIX}.f{i - 1}(y)\n"
        for i in range(1, 40)
    )
    monkeypatch.setattr("shared.operators.torchscript_execution._MOST_STEPS", 10_000)
    with pytest.raises(ProgramError, match="too long to check"):
        check(with_body(f"return [{_PREFIX}.f39(inputs[0])]", definitions=many))


def test_two_definitions_of_one_name_are_refused() -> None:
    twice = "def f(x: Tensor) -> Tensor:\n  return x\n" * 2
    with pytest.raises(ProgramError, match=r"one definition of .*\.f"):
        check(with_body("return inputs", definitions=twice))
