"""What somebody without the key does to signed versions, or makes of them, each by the reason that refuses it."""

from collections.abc import Callable

import msgspec

from shared.policy.manifest import Manifest, decode_manifest, encode_manifest
from shared.policy.signing import SigningKey
from tests.support.agent_policies import exporter, make_policy, publish
from tests.support.store_cases import StoreCase

KEY, OTHER_KEY = SigningKey.generate(), SigningKey.generate()

Attack = Callable[[StoreCase], None]


def publish_signed(case: StoreCase, seed: int, key: SigningKey = KEY, **fields: object) -> Manifest:
    return publish(case.open(), make_policy(seed=seed), exporter(), sign=key.sign, **fields)


def altered(case: StoreCase, directory: str, **fields: object) -> bytes:
    """The manifest in ``directory`` with other ``fields``."""
    return encode_manifest(msgspec.structs.replace(decode_manifest(case.get(f"{directory}/manifest.json")), **fields))


def copy(case: StoreCase, version: str, to: str) -> None:
    for name in case.files():
        if name.startswith(f"{version}/"):
            case.put(name.replace(version, to), case.get(name))


def versions(case: StoreCase) -> list[str]:
    """The directories of all of them, the newest last."""
    return sorted({name.split("/")[0] for name in case.files() if name.startswith("v")})


# Each makes the newest version of the store a bad one. The two newest are signed as they should be.


def an_old_version_under_a_new_number(case: StoreCase) -> None:
    *_, old, new = versions(case)
    case.remove(new)
    copy(case, old, new)


def a_number_altered(case: StoreCase) -> None:
    an_old_version_under_a_new_number(case)
    *_, new = versions(case)
    case.put(f"{new}/manifest.json", altered(case, new, version=int(new.removeprefix("v"))))


def a_run_altered(case: StoreCase) -> None:
    *_, new = versions(case)
    case.put(f"{new}/manifest.json", altered(case, new, run_id="other"))


def the_signature_taken_away(case: StoreCase) -> None:
    *_, new = versions(case)
    case.remove(f"{new}/manifest.sig")


def the_signature_of_another_version(case: StoreCase) -> None:
    *_, old, new = versions(case)
    case.put(f"{new}/manifest.sig", case.get(f"{old}/manifest.sig"))


def signed_with_another_key(case: StoreCase) -> None:
    *_, new = versions(case)
    case.put(f"{new}/manifest.sig", OTHER_KEY.sign(case.get(f"{new}/manifest.json")))


def one_byte_altered(case: StoreCase) -> None:
    *_, new = versions(case)
    manifest = case.get(f"{new}/manifest.json")
    before, after = b'"env_steps": 0', b'"env_steps": 1'
    assert before in manifest
    case.put(f"{new}/manifest.json", manifest.replace(before, after))


def a_file_of_another_signed_version(case: StoreCase) -> None:
    *_, old, new = versions(case)
    case.put(f"{new}/weights.safetensors", case.get(f"{old}/weights.safetensors"))


def another_content_with_its_own_digests(case: StoreCase) -> None:
    """What somebody without the key would publish: right in everything else."""
    case.remove(versions(case)[-1])
    publish(case.open(), make_policy(seed=9), exporter())


def a_version_that_was_signed_for_another_run(case: StoreCase) -> None:
    case.remove(versions(case)[-1])
    publish_signed(case, 9, run_id="other")


ATTACKS: dict[Attack, str] = {
    an_old_version_under_a_new_number: "ManifestError: .*expected a manifest of version",
    a_number_altered: "NotAuthentic: .*manifest.json was changed since",
    a_run_altered: "NotAuthentic: .*manifest.json was changed since",
    the_signature_taken_away: "NotAuthentic: .*the version is not signed",
    the_signature_of_another_version: "NotAuthentic: .*it was made with another key",
    signed_with_another_key: "NotAuthentic: .*it was made with another key",
    one_byte_altered: "NotAuthentic: .*manifest.json was changed since",
    a_file_of_another_signed_version: "DigestMismatch: .*weights.safetensors: expected SHA-256",
    another_content_with_its_own_digests: "NotAuthentic: .*the version is not signed",
    a_version_that_was_signed_for_another_run: "NotAuthentic: .*signed for run 'other', and this is run 'run'",
}
"""The reasons are regular expressions of what is said."""
