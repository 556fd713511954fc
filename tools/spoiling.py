"""Values spoiled at random: bytes, protobuf messages, arrays and JSON. The same generator spoils in the same way."""

from random import Random
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor

from onnx_lowrank.factorise.forms.table import FORMS

NUMBERS = (0, 1, 2, 3, 4, 7, -1, -2, 17, 255, 1000, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63 - 1, -(2**63))

JSON_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 10**30, 1e400, "", "conv2", *FORMS.names, [], {}, [[]], [1, 1, 1]),
)


# ---- bytes


def spoiled_bytes(random: Random, data: bytes) -> bytes:
    """Flip bits, remove, double, overwrite or insert spans, or cut off the end."""
    spoiled = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.randrange(len(spoiled) + 1)
        length = random.choice((1, 2, 4, 16, 100))
        match random.randrange(6):
            case 0 if at < len(spoiled):
                spoiled[at] ^= 1 << random.randrange(8)
            case 1:
                del spoiled[at:]
            case 2:
                del spoiled[at : at + length]
            case 3:
                spoiled[at:at] = spoiled[at : at + length]
            case 4:
                spoiled[at : at + length] = random.choice((b"\0", b"\xff")) * length
            case 5:
                spoiled[at:at] = random.randbytes(length)
    return bytes(spoiled)


# ---- protobuf messages


def messages(root: Any) -> list[Any]:
    """Return a message and all messages inside it."""
    collected = [root]
    for message in collected:
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                collected.extend(value if is_repeated(value) else [value])
    return collected


def is_repeated(value: Any) -> bool:
    """Tell whether the value of a field is a list."""
    return hasattr(value, "append") or hasattr(value, "add")


def spoil_message(random: Random, root: Any) -> None:
    """Change one field of one message somewhere inside: its value, its length, or whether it is present."""
    message = random.choice(messages(root))
    present = [field for field, _ in message.ListFields()]
    field = random.choice(present) if present and random.random() < 0.8 else random.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if is_repeated(value):
        spoil_repeated(random, root, field, value)
    elif field.type == FieldDescriptor.TYPE_MESSAGE or random.random() < 0.15:
        message.ClearField(field.name)
    else:
        assign(message, field, spoiled_scalar(random, root, field, value))


def spoil_repeated(random: Random, root: Any, field: Any, value: Any) -> None:
    """Remove an element of a repeated field, repeat it, swap it with another or change it."""
    holds_messages = field.type == FieldDescriptor.TYPE_MESSAGE
    at = random.randrange(len(value)) if len(value) else 0
    match random.randrange(4):
        case 0 if len(value):
            del value[at]
        case 1 if len(value):
            source = value[random.randrange(len(value))]
            if holds_messages:
                value.add().CopyFrom(source)
            else:
                value.append(source)
        case 2 if len(value) > 1:
            swap(value, at, random.randrange(len(value)), holds_messages=holds_messages)
        case _ if not holds_messages:
            spoil_element(value, at, spoiled_scalar(random, root, field, value[at] if len(value) else None))


def swap(value: Any, at: int, other: int, *, holds_messages: bool) -> None:
    """Swap two elements of a repeated field."""
    elements = [element.SerializeToString() if holds_messages else element for element in value]
    elements[at], elements[other] = elements[other], elements[at]
    del value[:]
    for element in elements:
        if holds_messages:
            value.add().MergeFromString(element)
        else:
            value.append(element)


def spoil_element(value: Any, at: int, replacement: Any) -> None:
    """Replace an element, or add one to an empty field; a replacement that is out of range empties the field."""
    try:
        if len(value):
            value[at] = replacement
        else:
            value.append(replacement)
    except (ValueError, TypeError):
        del value[:]


def assign(message: Any, field: Any, value: Any) -> None:
    """Set a field; a value that is out of range clears it."""
    try:
        setattr(message, field.name, value)
    except (ValueError, TypeError):
        message.ClearField(field.name)


def spoiled_scalar(random: Random, root: Any, field: Any, value: Any) -> Any:
    """Return another number, name or bytes; most names come from elsewhere in the model."""
    if field.type == FieldDescriptor.TYPE_STRING:
        names = [name for node in root.graph.node for name in (*node.input, *node.output, node.op_type)]
        return random.choice((*names, "", "x", "nobody", "a\nb", "ü" * 300, f"{value or ''}_"))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return spoiled_bytes(random, value or b"1234")
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return random.choice((0.0, -1.0, 1e30, 1e-30, float("nan"), float("inf")))
    return random.choice(NUMBERS)


# ---- arrays and JSON


def spoiled_array(random: Random, good: Any) -> Any:
    """Return samples of another shape, type or content."""
    match random.randrange(9):
        case 0:
            shape = [random.choice((0, 1, 2, 3, 10, 12)) for _ in range(random.randrange(6))]
            return np.zeros(shape, np.float32)
        case 1:
            return good.astype(random.choice(("f2", "f8", "i1", "u2", "i8", "?", "c8", "S3", "U2", "M8[s]", ">f4")))
        case 2:
            return np.where(good > 2, random.choice((np.nan, np.inf, -np.inf, 1e38)), good).astype(np.float32)
        case 3:
            return np.full(good.shape, random.choice((None, "word", {"a": 1})), object)
        case 4:
            return np.transpose(good, random.choice(((0, 2, 3, 1), (1, 0, 2, 3), (3, 2, 1, 0))))
        case 5:
            return np.zeros(good.shape, [("a", "f4"), ("b", "i2")])
        case 6:
            return good * np.float32(random.choice((0, 1e-30, 1e30)))
        case 7:
            return good[:1]
    return np.float32(1)


def spoiled_json(random: Random, value: Any) -> Any:
    """Replace one value somewhere inside."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(sorted(value))
        return value | {key: spoiled_json(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        repeated = random.choice(([], value[at : at + 1]))
        return [*value[:at], spoiled_json(random, value[at]), *value[at + 1 :], *repeated]
    return random.choice(JSON_VALUES)
