"""Texts of others in logs and on the terminal: none begins a line, moves the cursor, or hides a part."""

import re
from pathlib import Path

import msgspec
import onnx
import pytest
from loguru import logger

from rl_hotswap.cli.inspect import command as inspect
from rl_hotswap.cli.rollback import command as rollback
from shared.errors import ConfigurationError, HotswapError, one_line, printable
from shared.policy.manifest import ONNX_FILE, ProgramEntry
from shared.policy.program_digest import program_digest
from shared.process.log import set_up_logging
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import MakeAgent, exporter, make_policy, publish, publish_seed
from tests.support.rollout_examples import example_rollout, plain_layout
from tests.support.transport_cases import Network, fresh_address, learn
from tests.support.waiting import until

FORGED = (
    "a\n2026-11-30 12:00:00.000 | ERROR    | actor.agent:reset:1 - forged\r\x1b[2J\x9b31m\u202eb\u2066\u2028\x7f\0c"
)
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \| \w+ +\| [\w.<>]+:[\w<>]+:\d+ - .*")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log file of this process."""
    set_up_logging("learner", tmp_path / "logs", terminal_level=None)
    return tmp_path / "logs" / "learner.log"


def _check_log(log: Path, *, quotes: str) -> None:
    text = log.read_text()
    assert not STEERING.search(text)
    assert all(LINE.fullmatch(line) for line in text.splitlines()), text
    assert not re.search(r"^2026-11-30 12:00:00", text, re.MULTILINE)
    assert quotes in text, "the text is there, escaped"


def test_an_actor_cannot_write_a_line_into_the_log_of_the_learner(log: Path, network: Network) -> None:
    address = fresh_address()
    receiver = network.receiver(address)
    sender = network.sender(address, actor_id=FORGED)
    sender.send(example_rollout(plain_layout(), actor_id=FORGED))
    learn(receiver)
    sender.close()
    until(lambda: receiver.receive(0.0) or "forged" in log.read_text())
    _check_log(log, quotes="forged\\r\\x1b[2J")


def test_a_program_cannot(log: Path, store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    """Its operators are named in the reason of the refusal."""
    publish_seed(store, 0)
    agent = make_agent()
    agent.reset()
    node = onnx.helper.make_node(FORGED.replace("\0", ""), ["x"], ["y"], domain="a.b")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", 4]) for name in "xy")
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y])).SerializeToString()
    entry = ProgramEntry("onnx", ONNX_FILE, program_digest("onnx", graph))
    publish(store, make_policy(seed=1), exporter(), instead={ONNX_FILE: graph}, programs=(entry,))
    agent.reset()
    assert agent.policy.version == 0
    _check_log(log, quotes="a.b::a")


def test_a_traceback_cannot(log: Path) -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        logger.exception("failed while handling {}", FORGED)
    text = log.read_text()
    assert not STEERING.search(text)
    first, *others = text.splitlines()
    assert LINE.fullmatch(first)
    assert others
    assert all(line.startswith("    ") for line in others)


def test_manifests_and_notes_cannot_steer_a_terminal(
    store: LocalPolicyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        manifest = publish(store, make_policy(seed=seed), exporter(), run_id=FORGED)
        store.quarantine(manifest.digest, FORGED, FORGED)
        notes = store.path / "quarantine" / f"{manifest.digest}.json"
        note = msgspec.json.decode(notes.read_bytes())
        notes.write_bytes(msgspec.json.encode({**note, "created_unix_s": 1e300}))
    inspect([str(store.path / "v000000")])
    rollback(["--to=0", f"--store={store.path}"])
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not STEERING.search(text)
        assert not re.search(r"^2026-11-30 12:00:00", text, re.MULTILINE)
    assert "1e+300 s after 1970" in said.out
    assert "[2J" in said.out


def test_no_markup_of_others_is_followed(store: LocalPolicyStore, capsys: pytest.CaptureFixture[str]) -> None:
    publish(store, make_policy(), exporter(), run_id="[red]not red[/red] :warning:")
    inspect([str(store.path / "v000000")])
    assert "[red]not red[/red] :warning:" in capsys.readouterr().out


def test_the_message_of_an_error_is_one_line() -> None:
    for kind in (HotswapError, ConfigurationError):
        assert str(kind(f"found {FORGED}")) == one_line(f"found {FORGED}") == printable(one_line(f"found {FORGED}"))
        assert "\n" not in str(kind(FORGED))


def test_every_steering_character_is_escaped() -> None:
    for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A)):
        escaped = printable(f"a{chr(code)}b")
        assert escaped.isprintable()
        assert escaped == f"a{chr(code).encode('unicode_escape').decode()}b"


def test_texts_of_every_language_stay_as_they_are() -> None:
    for text in ("Größe, 値, размер, μ, “quoted”, 🙂", "  two  spaces"):
        assert printable(text) == text
    assert printable("st\udcffre") == "st\\udcffre", "a path that is no UTF-8 can be printed"
