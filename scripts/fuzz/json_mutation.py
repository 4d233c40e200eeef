"""Mutation of JSON by its structure: changed bytes are rarely JSON, and then only the parser is tested."""

import json
from random import Random
from typing import Any

_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 7, 2**31, 2**53, 2**63, 2**64, 10**30, -0.0, 1e-3, 1e308, "", "x", "..", "\x1b[2J"),
    *("float32", "int64", "bool", "discrete", "box", "none", "noise", "state", "a" * 300, [], {}, [0], [[]]),
)


def mutate_json(data: bytes, random: Random) -> bytes:
    """Return ``data`` with some values replaced, removed, repeated or moved; unchanged if it is no JSON object."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(random.choice((1, 1, 2, 4))):
        places = list(_places(content))
        if not places:
            return data
        holder, key = random.choice(places)
        _change(holder, key, random.choice(places), random)
    text = json.dumps(content, indent=random.choice((None, 1)))
    if random.random() < 0.1:  # a repeated key
        at = text.find('": ') + 1
        name = text[text.rfind('"', 0, at - 1) : at]
        text = text.replace(name, f"{name}: 0, {name}", 1)
    return text.encode(errors="replace")


def _places(value: Any) -> Any:
    """Yield each container with each of its keys, at any depth."""
    items: Any = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, item in items:
        yield value, key
        yield from _places(item)


def _change(holder: Any, key: Any, other: tuple[Any, Any], random: Random) -> None:
    if key not in holder if isinstance(holder, dict) else key >= len(holder):
        return  # changed meanwhile
    match random.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder[key:key] = [_copy(holder[key]) for _ in range(random.choice((1, 2, 40)))]
        case 2:
            holder[key] = _copy(other[0][other[1]]) if _has(*other) else 0
        case 3:
            holder[key] = [holder[key]]
        case 4 if isinstance(holder, dict):
            holder[random.choice(("x", "", "policy.ts", "module", str(key) + "2"))] = holder.pop(key)
        case _:
            holder[key] = _copy(random.choice(_VALUES))


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))
