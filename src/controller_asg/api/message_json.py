"""Messages as JSON, for HTTP and `--json`. It imports no model, so that the commands start fast."""

import json
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def to_json(message: Message) -> dict[str, Any]:
    """A message with its own field names: 64-bit numbers as numbers, times in ISO 8601, null for what is absent.

    A field that holds JSON as text (`document_json`) is a plain value, under its name without `_json`.
    """
    return {_key(field): _field(message, field) for field in message.DESCRIPTOR.fields}


def _key(field: Any) -> str:  # a FieldDescriptor, of either implementation
    name: str = field.name
    return name.removesuffix("_json")


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: value[key] for key in sorted(value)}
    if field.is_repeated:
        return [_value(each) for each in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    if field.name.endswith("_json"):
        return json.loads(value) if value else None
    return _value(value)


def _value(value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    return to_json(value) if isinstance(value, Message) else value
