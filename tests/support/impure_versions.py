"""Versions with correct weights and probe whose program has one operator too many, or whose archive is two archives."""

import hashlib
import io
import re
import struct
import zipfile
from collections.abc import Callable, Iterator

import onnx
from onnx import TensorProto, helper

from shared.policy.manifest import ONNX_FILE, TORCHSCRIPT_FILE, ProgramEntry
from shared.policy.program_digest import torchscript_digest
from shared.policy.torchscript_archive import read_archive
from shared.policy.torchscript_objects import ScriptObject, read_objects
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import exporter, make_policy, publish
from tests.support.script_archives import with_entries

Stage = Callable[[LocalPolicyStore, int], None]
"""Publishes a version with weights of a seed."""

# Statements at the begin of forward, and the operator that the refusal names.
_STATEMENTS = {
    "a program that reads a file": ('e = torch.from_file("/etc/hostname", False, 4)', "from_file"),
    "a program that creates a file": ('e = torch.from_file("/tmp/rl-hotswap-evil", True, 4)', "from_file"),
    "a program that prints": ('print("evil")', "print"),
    "a program that warns": ('torch.warn("evil", 2)', "warn"),
    "a program that sets the seed": ("torch.manual_seed(1)", "manual_seed"),
    "a program that draws numbers": ("e = torch.rand([3])", "rand"),
    "a program that drops out": ("e = torch.dropout(inputs[0], 0.5, True)", "dropout"),
    "a program that shows old memory": ("e = torch.empty([3])", "empty"),
    "a program that writes into its input": ("e = torch.mul_(inputs[0], 1)", "mul_"),
    "a program that writes into a view of its input": ("e = torch.zero_(torch.slice(inputs[0], 0, 0, 0))", "zero_"),
    "a program that empties its arguments": ("e = torch.append(inputs, inputs[0])", "append"),
    "a program that keeps a counter": ("self.training = False", "setattr"),
    "a program without an end": ("while True:\n      e = torch.neg(inputs[0])", "while"),
    "a program that starts a thread": ("e = fork(inputs[0])", "fork"),
    "a program that calls another library": ('e = ops.image.read_file("/etc/hostname")', "image::read_file"),
}


def impure_stages() -> Iterator[tuple[str, Stage, str]]:
    """Yield the name of each kind, its stage, and a part of the reason for which it is refused."""
    for name, (statement, operator) in _STATEMENTS.items():
        yield name, _scripted(statement), f"replace {operator}, which"
    for name, (edit, reason) in _GRAPHS.items():
        yield name, _graph(edit), reason
    for name, (change, reason) in _ARCHIVES.items():
        # Actors that hold the program run it from memory, so the archive is of a network that none has seen.
        yield name, _archive(change, network="lstm"), reason


def _scripted(statement: str) -> Stage:
    return _archive(lambda data: with_statement(data, statement))


def with_statement(archive: bytes, statement: str) -> bytes:
    """Return the archive whose ``forward(self, inputs)`` begins with ``statement``."""
    entries = read_archive(archive)
    root = read_objects(entries)
    assert isinstance(root, ScriptObject)
    package, _, name = root.class_name.rpartition(".")
    path = f"code/{package.replace('.', '/')}.py"
    head = rf"(class {name}\(Module\):\n(?:  .*\n)*?  def forward\(self.*\n    inputs: .*:\n)"
    code, count = re.subn(head, rf"\1    {statement}\n", bytes(entries[path]).decode())
    assert count == 1
    return with_entries({path: code.encode()}, archive)


def _archive(change: Callable[[bytes], bytes], network: str = "mlp") -> Stage:
    def stage(store: LocalPolicyStore, seed: int) -> None:
        policy, made_by = make_policy(seed=seed, network=network), exporter(network=network)
        files, _, _ = made_by.files(policy.state_dict())
        data = change(files[TORCHSCRIPT_FILE])
        entry = ProgramEntry("torchscript", TORCHSCRIPT_FILE, _digest(data))
        publish(store, policy, made_by, instead={TORCHSCRIPT_FILE: data}, programs=(entry,))

    return stage


def _digest(archive: bytes) -> str:
    """Return the digest of the entries that Python finds: the attacker's claim."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return torchscript_digest({name.partition("/")[2]: opened.read(name) for name in opened.namelist()})


def _plain(data: bytes) -> bytes:
    return with_entries({"version": b"3\n"}, data)


def _two_directories(data: bytes) -> bytes:
    good, evil = _plain(data), with_entries({"byteorder": b"evil!!"}, data)
    assert len(good) == len(evil)
    return evil[:-22] + good


def _other_local_header(data: bytes) -> bytes:
    changed = bytearray(_plain(data))
    struct.pack_into("<H", changed, 4, 77)  # the version that is needed to extract the first entry
    struct.pack_into("<H", changed, 10, 7)  # its time
    struct.pack_into("<I", changed, 14, 1)  # its CRC
    return bytes(changed)


def _duplicates(data: bytes) -> bytes:
    twice = with_entries({"versioo": b"4\n"}, data)
    return twice.replace(b"archive/versioo", b"archive/version")


_ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "an archive with two directories": (_two_directories, "one directory"),
    "an archive with a prefix": (lambda data: b"#!/bin/sh\n" + _plain(data), "one directory"),
    "an archive with a suffix": (lambda data: data + b"\0", "an end record at its very end"),
    "an archive with two entries of one name": (_duplicates, "unique entries"),
    "an archive with another local header": (_other_local_header, "local headers"),
}


def _graph(edit: Callable[[onnx.ModelProto], None]) -> Stage:
    def stage(store: LocalPolicyStore, seed: int) -> None:
        policy, made_by = make_policy(seed=seed), exporter(onnx=True)
        files, _, _ = made_by.files(policy.state_dict())
        model = onnx.load_model_from_string(files[ONNX_FILE])
        edit(model)
        data = model.SerializeToString()
        entry = ProgramEntry("onnx", ONNX_FILE, hashlib.sha256(data).hexdigest())
        publish(store, policy, made_by, instead={ONNX_FILE: data}, programs=(entry,))

    return stage


def _node(operator: str, domain: str = "", **attributes: object) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        read = [model.graph.input[0].name]
        model.graph.node.append(helper.make_node(operator, read, ["evil"], domain=domain, **attributes))
        if domain:
            model.opset_import.add(domain=domain, version=1)

    return edit


_SHAPE = helper.make_tensor_value_info("drawn", TensorProto.FLOAT, [1])
_DRAWS = helper.make_graph([helper.make_node("RandomNormal", [], ["drawn"], shape=[1])], "draws", [], [_SHAPE])


def _function(model: onnx.ModelProto) -> None:
    inside = [helper.make_node("RandomUniformLike", ["a"], ["b"])]
    model.functions.append(helper.make_function("local", "Helper", ["a"], ["b"], inside, list(model.opset_import)))
    _node("Helper", "local")(model)


def _branch(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("If", ["no"], ["evil"], then_branch=_DRAWS, else_branch=_DRAWS))


def _loop(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Loop", ["", "no"], ["evil"], body=_DRAWS))


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer.add(name="evil", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/hostname")


_GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "a graph that draws numbers": (_node("RandomNormalLike"), "replace RandomNormalLike"),
    "a graph that draws from probabilities": (_node("Multinomial"), "replace Multinomial"),
    "a graph of another domain": (_node("Gelu", "com.microsoft"), "replace com.microsoft::Gelu"),
    "a graph that draws in a function": (_function, "replace RandomUniformLike"),
    "a graph that draws in a branch": (_branch, "replace RandomNormal"),
    "a graph with a loop without an end": (_loop, "replace Loop without a bound"),
    "a graph that reads another file": (_external, "refers to the file"),
}
