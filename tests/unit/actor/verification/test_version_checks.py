import msgspec
import pytest

from actor.verification.version_checks import check_signature
from shared.errors import ManifestError
from shared.policy.signature import PolicySignature, Role
from tests.support.agent_policies import ACTIONS, make_policy


@pytest.mark.parametrize("network", ["mlp", "lstm"])
@pytest.mark.parametrize("action", ACTIONS)
def test_signatures_of_our_policies_pass(action: str, network: str) -> None:
    check_signature(make_policy(action=action, network=network).signature)


def _with_output(role: Role, **changes: object) -> PolicySignature:
    signature = make_policy(network="lstm").signature
    outputs = tuple(
        msgspec.structs.replace(spec, **changes) if spec.role == role else spec for spec in signature.outputs
    )
    return msgspec.structs.replace(signature, outputs=outputs)


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        (_with_output("log_prob", dtype="complex64"), "log_prob: expected one float for each row, found complex64"),
        (_with_output("log_prob", dtype="int32"), "log_prob: expected one float for each row, found int32"),
        (_with_output("value", dtype="bool"), "value: expected one float for each row"),
        (_with_output("value", shape=(2,)), r"value: expected one float for each row, found float32 \(2,\)"),
        (_with_output("state", dtype="complex128"), "expected real numbers or bool, found complex128"),
        (_with_output("state", dtype="no dtype"), "expected real numbers or bool, found no dtype"),
        (_with_output("action", dtype="float32"), "expected int64"),
        (_with_output("action", dtype="int32"), "expected int64"),
    ],
)
def test_signature_of_outputs_that_an_agent_cannot_use_is_refused(signature: PolicySignature, expected: str) -> None:
    with pytest.raises(ManifestError, match=expected):
        check_signature(signature)
