"""Nets and solvers as text (prototxt)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ..errors import NetError, ParseError, did_you_mean
from . import schema


def read_net(path: str | os.PathLike[str]) -> Any:
    """Read a net, upgraded to today's form (a NetParameter); from a compressed model the one that it holds.

    Raises
    ------
    ParseError : not a valid prototxt; names file, line and column
    OSError : the file cannot be read
    """
    from .compressed import is_compressed, read_net_of

    if is_compressed(path):
        from ..passes.upgrade import upgrade_net

        return upgrade_net(read_net_of(path))
    return parse_net(_read_text(path), os.fspath(path))


def read_solver(path: str | os.PathLike[str]) -> Any:
    """Read a solver, upgraded to today's form (a SolverParameter).

    As in Caffe a missing ``snapshot_prefix`` becomes the file's path without extension, and the file's stem is appended
    to one that is a folder.
    """
    param = parse_solver(_read_text(path), os.fspath(path))
    file = Path(path)
    if not param.HasField("snapshot_prefix"):
        param.snapshot_prefix = str(file.with_suffix(""))
    elif os.path.isdir(param.snapshot_prefix):
        param.snapshot_prefix = os.path.join(param.snapshot_prefix, file.stem)
    return param


def parse_net(text: str, source: str = "<text>") -> Any:
    """Parse a net, upgraded to today's form.

    >>> parse_net('layer { name: "r" type: "ReLU" }').layer[0].type
    'ReLU'
    """
    from ..passes.upgrade import upgrade_net

    net = parse_message(text, "NetParameter", source)
    try:
        return upgrade_net(net)
    except NetError as e:
        raise NetError(f"{source}: {e}") from e


def parse_solver(text: str, source: str = "<text>") -> Any:
    """Parse a solver, upgraded to today's form."""
    from ..passes.upgrade import upgrade_solver

    return upgrade_solver(parse_message(text, "SolverParameter", source))


def parse_message(text: str, name: str, source: str = "<text>") -> Any:
    """Parse any message of the schema as it stands.

    >>> parse_message('type: "xavier"', "FillerParameter").type
    'xavier'

    Raises
    ------
    ParseError : with line, column and the offending name
    """
    from google.protobuf import text_format

    message = schema.message_class(name)()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as e:
        found = re.match(r"(?:(\d+):(\d+) : )?(.*)", str(e), re.DOTALL)
        said = found.group(3) if found else str(e)
        line, column = e.GetLine() or 0, e.GetColumn() or 0
        raise ParseError(_explain(said, name), source, line, column) from None
    except RecursionError:
        raise ParseError("messages are nested too deeply", source) from None
    except (ValueError, TypeError) as e:  # strings that are no UTF-8
        raise ParseError(str(e), source) from None
    return message


def to_text(message: Any) -> str:
    """A message as prototxt."""
    from google.protobuf import text_format

    return text_format.MessageToString(message, as_utf8=True)


def _read_text(path: str | os.PathLike[str]) -> str:
    data = Path(path).read_bytes()
    if data[:4] == b"\x89HDF" or b"\0" in data:
        raise ParseError("is a binary file, not a prototxt", os.fspath(path))
    # Comments in any encoding are welcome, as in Caffe; strings have to be UTF-8.
    return data.decode("utf-8-sig", errors="surrogateescape")


def _explain(said: str, root: str) -> str:
    """protobuf's complaint in words that help: nearest names, where a misplaced field belongs."""
    unknown = re.search(r'Message type "caffe\.([\w.]+)" has no field named "?(\w+)"?', said)
    if unknown:
        owner, field = unknown.groups()
        known = [f.name for f in schema.message_class(owner).DESCRIPTOR.fields]
        return f'{owner} has no field "{field}"' + (_elsewhere(field, owner, root) or did_you_mean(field, known))
    value = re.search(r'Enum type "caffe\.([\w.]+)" has no value named "?(\w+)"?', said)
    if value:
        owner, name = value.groups()
        values = _enum_values(owner)
        return f'{owner} has no value "{name}"' + (did_you_mean(name, values) or "; it has " + ", ".join(values))
    twice = re.search(r'Message type "caffe\.([\w.]+)" should not have multiple "(\w+)" fields', said)
    if twice:
        return f'field "{twice.group(2)}" of {twice.group(1)} is given twice'
    return said


def _enum_values(full_name: str) -> list[str]:
    owner, _, name = full_name.rpartition(".")
    if owner:
        return list(schema.message_class(owner).DESCRIPTOR.enum_types_by_name[name].values_by_name)
    return list(schema.message_class(name).keys())


def _elsewhere(field: str, owner: str, root: str) -> str:
    """Fields of `owner`, or the root message, that would take this field."""
    if owner == "LayerParameter":
        homes = [
            f.name
            for f in schema.LayerParameter.DESCRIPTOR.fields
            if f.message_type is not None and f.name.endswith("_param") and field in f.message_type.fields_by_name
        ]
        if homes:
            return f"; it belongs into {', '.join(homes[:3])}" + (" ..." if len(homes) > 3 else "")
    other = {"NetParameter": "SolverParameter", "SolverParameter": "NetParameter"}.get(root)
    if other and owner == root and field in schema.message_class(other).DESCRIPTOR.fields_by_name:
        kind = "solver" if other == "SolverParameter" else "net"
        return f"; {other} has: is this file a {kind}?"
    return ""
