"""Caffe's protobuf messages as Python classes: ``schema.NetParameter``, ``schema.Datum``, ``schema.TEST`` ...

The classes come from a descriptor set (compiled from proto/protocaffe.proto when the package is built) in a
descriptor pool of our own. So any protobuf runtime will do, another ``caffe.proto`` in the process does no harm, and
a layer from outside brings its own parameter message (`add_layer_parameter`). A new message replaces all classes: use
``schema.X`` when you need one instead of keeping it, and `current` for messages that were made before.

Nothing of the package is imported at the top: the build runs this file alone, for `compile_descriptor`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent.parent
_SOURCE = _PACKAGE.parent / "proto" / "protocaffe.proto"
_COMPILED = _PACKAGE / "_build" / "protocaffe.desc"

_lock = threading.RLock()
_names: dict[str, Any] | None = None
_additions: dict[str, tuple[dict[str, tuple[str, Any]], int]] = {}


def compile_descriptor(proto_path: str | os.PathLike[str], out_path: str | os.PathLike[str]) -> None:
    """Compile a .proto file to a descriptor set, and note the source's hash beside it.

    Uses grpcio-tools, or else a ``protoc`` on the PATH.

    Raises
    ------
    RuntimeError : neither is there, or the source does not compile
    """
    proto, out = Path(proto_path), Path(out_path)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    if importlib.util.find_spec("grpc_tools") is not None:
        command = [sys.executable, "-m", "grpc_tools.protoc"]
    else:
        protoc = shutil.which("protoc")
        if protoc is None:
            raise RuntimeError(
                f"compiling {proto} needs the package grpcio-tools (or protoc): pip install grpcio-tools"
            )
        command = [protoc]
    command += [f"-I{proto.parent}", f"--descriptor_set_out={scratch}", str(proto)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        scratch.unlink(missing_ok=True)
        raise RuntimeError(f"{proto} does not compile:\n{done.stderr.strip()}")
    with open(scratch, "rb+") as compiled:
        os.fsync(compiled.fileno())
    os.replace(scratch, out)
    with open(scratch, "w", encoding="ascii") as note:
        note.write(_hash(proto))
        note.flush()
        os.fsync(note.fileno())
    os.replace(scratch, _hash_file(out))


def _hash(proto: Path) -> str:
    return hashlib.sha256(proto.read_bytes()).hexdigest()


def _hash_file(compiled: Path) -> Path:
    return compiled.with_suffix(".sha256")


def _descriptor_set() -> bytes:
    """The compiled descriptor set; in a source tree compiled anew when the source has changed."""
    from protocaffe.errors import ProtocaffeError

    if _SOURCE.is_file():
        note = _hash_file(_COMPILED)
        if not (_COMPILED.is_file() and note.is_file() and note.read_text() == _hash(_SOURCE)):
            try:
                compile_descriptor(_SOURCE, _COMPILED)
            except (RuntimeError, OSError) as e:
                raise ProtocaffeError(f"cannot compile the schema: {e}") from e
    if not _COMPILED.is_file():
        raise ProtocaffeError(f"{_COMPILED} is missing: the package is not completely installed")
    return _COMPILED.read_bytes()


def _build() -> dict[str, Any]:
    """All messages, top-level enums and enum values of the schema by name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

    file = descriptor_pb2.FileDescriptorSet.FromString(_descriptor_set()).file[0]
    layer = next(m for m in file.message_type if m.name == "LayerParameter")
    for name, (fields, number) in _additions.items():
        _add(file, layer, name, fields, number)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    described = pool.FindFileByName(file.name)
    names: dict[str, Any] = {}
    for name, message in described.message_types_by_name.items():
        names[name] = message_factory.GetMessageClass(message)
    for name, enum in described.enum_types_by_name.items():
        names[name] = EnumTypeWrapper(enum)
        names.update({value.name: value.number for value in enum.values})
    return names


def _current() -> dict[str, Any]:
    global _names
    with _lock:
        if _names is None:
            _names = _build()
        return _names


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        names = _current()
        if name in names:
            return names[name]
        from protocaffe.errors import did_you_mean

        raise AttributeError(f'the schema has no message or enum "{name}"{did_you_mean(name, names)}')
    raise AttributeError(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_current()})


def message_class(name: str) -> Any:
    """The class of a message by name, nested ones with a dot (``NetParameter``)."""
    found = _current()
    first, *rest = name.split(".")
    cls = found[first]
    for part in rest:
        cls = getattr(cls, part)
    return cls


def current(message: Any) -> Any:
    """A message in the classes of now: itself, or re-read if a layer's message was added since it was made."""
    cls = _current()[message.DESCRIPTOR.name]
    return message if isinstance(message, cls) else cls.FromString(message.SerializeToString())


# The numbers are protobuf's own (FieldDescriptorProto.Type).
_SCALARS = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13,
}  # fmt: skip
_ENUM, _MESSAGE, _OPTIONAL, _REPEATED = 14, 11, 1, 3
_FIRST, _LAST = 10_000_000, 536_870_911


def add_layer_parameter(name: str, fields: Mapping[str, tuple[str, Any]], number: int | None = None) -> int:
    """Give LayerParameter a field with a message of its own, for a layer from outside the package.

    After ``add_layer_parameter("my_param", {"alpha": ("float", 1.0), "axes": ("repeated int32", None)})`` a prototxt
    may hold ``my_param { alpha: 2 axes: 1 axes: 3 }``, and ``layer.my_param.alpha`` reads it.

    Parameters
    ----------
    name : the field's name, lower case; ``my_param`` makes the message ``MyParameter``
    fields : name -> (type, default or None). A type is a scalar (float, int32, uint32, int64, uint64, double, bool,
        string, bytes), a message of the schema (FillerParameter, BlobShape ...) or ``enum A B C``, each also after
        ``repeated``. Fields are numbered 1, 2, 3 ... in their order: append new ones at the end.
    number : the field's number in binary files; by default derived from the name, the same everywhere

    Returns
    -------
    The number. Adding the same again changes nothing.

    Raises
    ------
    ParameterError : the name is taken, or a type or default is not valid
    """
    from protocaffe.errors import ParameterError

    def fail(text: str) -> ParameterError:
        return ParameterError(f'layer parameter "{name}": {text}')

    global _names
    wanted = {k: (" ".join(str(t).split()), d) for k, (t, d) in fields.items()}
    if number is None:
        digest = hashlib.sha256(name.encode()).digest()
        number = _FIRST + int.from_bytes(digest[:8], "big") % (_LAST - _FIRST + 1)
    with _lock:
        if name in _additions:
            if _additions[name] == (wanted, number):
                return number
            raise fail("is already added with other fields or another number")
        known = _current()["LayerParameter"].DESCRIPTOR
        if not name.isidentifier() or not name.islower():
            raise fail("must be lower-case letters, digits and underscores")
        if name in known.fields_by_name:
            raise fail("is a field of LayerParameter already")
        if number in known.fields_by_number:
            raise fail(f"number {number} belongs to {known.fields_by_number[number].name}")
        if not 5000 <= number <= _LAST or 19000 <= number <= 19999:
            raise fail(f"number must be in 5000 ... {_LAST}, not in 19000 ... 19999, got {number}")
        if _message_name(name) in _current():
            raise fail(f"would make a second message {_message_name(name)}")
        _additions[name] = (wanted, number)
        before, _names = _names, None
        try:
            _current()
        except Exception as e:
            del _additions[name]
            _names = before
            raise e if isinstance(e, ParameterError) else fail(str(e)) from e
    return number


def _message_name(field: str) -> str:
    words = field.split("_")
    return "".join(w[:1].upper() + w[1:] for w in ["parameter" if w == "param" else w for w in words])


def _add(file: Any, layer: Any, name: str, fields: Mapping[str, tuple[str, Any]], number: int) -> None:
    """Add a message for `fields` to a FileDescriptorProto, and a field for it to its LayerParameter."""
    from protocaffe.errors import ParameterError, did_you_mean

    messages = [m.name for m in file.message_type]
    message = file.message_type.add(name=_message_name(name))
    for i, (key, (kind, default)) in enumerate(fields.items(), start=1):
        words = kind.split()
        repeated = words[:1] == ["repeated"]
        base, *values = words[1:] if repeated else words
        field = message.field.add(name=key, number=i, label=_REPEATED if repeated else _OPTIONAL)
        if base == "enum" and values:
            enum = message.enum_type.add(name="".join(w.capitalize() for w in key.split("_")))
            for n, value in enumerate(values):
                enum.value.add(name=value, number=n)
            field.type, field.type_name = _ENUM, f".{file.package}.{message.name}.{enum.name}"
        elif base in _SCALARS:
            field.type = _SCALARS[base]
            field.options.packed = repeated and base not in ("string", "bytes")
        elif base in messages:
            field.type, field.type_name = _MESSAGE, f".{file.package}.{base}"
        else:
            hint = did_you_mean(base, [*_SCALARS, *messages])
            raise ParameterError(f'layer parameter "{name}": field "{key}" has the unknown type "{kind}"{hint}')
        if default is not None:
            field.default_value = str(default).lower() if isinstance(default, bool) else str(default)
    layer.field.add(
        name=name, number=number, label=_OPTIONAL, type=_MESSAGE, type_name=f".{file.package}.{message.name}"
    )
