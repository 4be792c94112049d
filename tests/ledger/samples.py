"""A sample of any struct, with a value in every field."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec


def sample_of(kind: Any) -> Any:
    """Make a value of a type: of structs, all fields are filled, also the optional ones."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = typing.get_type_hints(kind)
        return kind(**{name: sample_of(fields[name]) for name in kind.__struct_fields__})
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return sample_of(next(a for a in typing.get_args(kind) if a is not type(None)))
    if origin is tuple:
        return (sample_of(typing.get_args(kind)[0]),)
    if origin is dict:
        return {"name": sample_of(typing.get_args(kind)[1])}
    return {str: "text", int: 7, bool: True}[kind]
