"""Weights and solver states in HDF5 (.caffemodel.h5, .solverstate.h5), as Caffe reads and writes them.

Weights: /data/<layer>/<i>, gradients under /diff; a state: iter, learned_net, current_step, /history/<i>. What Caffe
does not know lies where it does not look: masks under /mask/<layer>/<i>, "tied" as an attribute of values from a code
book, the rest of a state in /protocaffe/resume.

A file from elsewhere is not trusted: links out of it, data sets that lie in other files, filters other than HDF5's own,
one thing under two names (which could multiply without end) and sizes that the file cannot hold are refused.

Source: Caffe, src/caffe/net.cpp (ToHDF5), src/caffe/solvers/sgd_solver.cpp (SnapshotSolverStateToHDF5),
src/caffe/util/hdf5.cpp.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FileFormatError, WeightsError
from .caffemodel import LayerWeights
from .files import atomic_write
from .solverstate import SolverState

if TYPE_CHECKING:
    import h5py

#: deflate cannot pack more than this many bytes into one
MAX_RATIO = 1100
#: fletcher32, shuffle, deflate, lzf: the filters that need no plugin
FILTERS = {1, 2, 3, 32000}
MAX_DEPTH, MAX_MEMBERS = 16, 1_000_000


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as HDF5 files do."""
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


class _Damage(Exception):
    """What is wrong with a file; the reader adds its name."""


@contextmanager
def _reading(path: str | os.PathLike[str], what: str) -> Iterator[h5py.File]:
    import h5py

    name = os.fspath(path)
    if not is_hdf5(path):
        raise FileFormatError(f'"{name}" is no HDF5 file, expected a {what} in HDF5')
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileFormatError:
        raise
    except _Damage as error:
        raise FileFormatError(f'"{name}" is not a valid {what} in HDF5: {error}') from error
    except (OSError, RuntimeError, KeyError, ValueError, OverflowError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise FileFormatError(f'"{name}" is not a valid {what} in HDF5: it cannot be read ({reason})') from error


def _member(group: Any, name: str) -> Any:
    """A member of a group, which must lie in the file itself."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise _Damage(f'"{group.name.rstrip("/")}/{name}" is a link to another place')
    return group[name]


def _array(data_set: Any, kinds: str, what: str) -> np.ndarray:
    """The values of a data set, after a look at its type, place and size."""
    import h5py

    where = f'"{getattr(data_set, "name", "?")}"'
    if not isinstance(data_set, h5py.Dataset):
        raise _Damage(f"{where} must be a data set of {what}, got {type(data_set).__name__}")
    kind = data_set.dtype.kind
    # references are objects too, as strings of any length are
    if kind not in kinds or (kind == "O" and h5py.check_string_dtype(data_set.dtype) is None):
        got = data_set.dtype if h5py.check_ref_dtype(data_set.dtype) is None else "references"
        raise _Damage(f"{where} must be a data set of {what}, got {got}")
    if data_set.shape is None:
        raise _Damage(f"{where} holds no values")
    settings = data_set.id.get_create_plist()
    if data_set.is_virtual or settings.get_external_count():
        raise _Damage(f"{where} has its values in another file")
    filters = {settings.get_filter(i)[0] for i in range(settings.get_nfilters())}
    if not filters <= FILTERS:
        raise _Damage(f"{where} is stored with filters that are not HDF5's own ({sorted(filters - FILTERS)})")
    size = int(np.prod(data_set.shape, dtype=object)) * data_set.dtype.itemsize
    stored = data_set.id.get_storage_size()
    if size > stored * (MAX_RATIO if filters else 1):
        raise _Damage(f"{where} should hold {size} bytes, {stored} are stored")
    if stored > data_set.file.id.get_filesize():  # pieces that overlap
        raise _Damage(f"{where} claims {stored} bytes, more than the file has")
    return np.asarray(data_set[()])


def _groups(root: Any, path: str, depth: int, seen: set[Any]) -> Iterator[tuple[str, dict[int, Any]]]:
    """The layers below ``root``: (name, {i: data set}). A name with slashes lies in several groups."""
    import h5py

    if depth > MAX_DEPTH or len(root) > MAX_MEMBERS:
        raise _Damage(f'"{root.name}" is nested too deeply or has too many members')
    found: dict[int, Any] = {}
    for name in root:
        member = _member(root, name)
        if member in seen:
            raise _Damage(f'"{root.name.rstrip("/")}/{name}" is also there under another name')
        seen.add(member)
        if isinstance(member, h5py.Group):
            yield from _groups(member, f"{path}/{name}" if path else name, depth + 1, seen)
        elif name.isdigit() and len(name) < 6:
            found[int(name)] = member
        else:
            raise _Damage(f'"{member.name}" is neither a group nor a data set that is called by a number')
    if path or found:
        yield path, found


def _blobs(file: Any, group: str, kinds: str, what: str) -> dict[str, dict[int, np.ndarray]]:
    import h5py

    if group not in file:
        return {}
    root = _member(file, group)
    if not isinstance(root, h5py.Group):
        raise _Damage(f'"/{group}" must be a group')
    layers = dict(_groups(root, "", 0, {root}))
    sets = [d for found in layers.values() for d in found.values() if isinstance(d, h5py.Dataset)]
    if sum(d.id.get_storage_size() for d in sets) > file.id.get_filesize():
        raise _Damage(f'the data sets of "/{group}" claim more bytes than the file has')
    return {name: {i: _array(d, kinds, what) for i, d in found.items()} for name, found in layers.items()}


def read_weights(path: str | os.PathLike[str]) -> list[LayerWeights]:
    """Read the layers of a .caffemodel.h5, by name. A blob that the file does not hold (a shared one) is None.

    Raises
    ------
    FileFormatError : no HDF5 file, damaged, or no weights; names file and data set
    OSError : the file cannot be read
    """
    with _reading(path, "caffemodel") as file:
        if "data" not in file:
            raise _Damage('it has no group "/data"')
        data = _blobs(file, "data", "f", "floats")
        diffs, masks = _blobs(file, "diff", "f", "floats"), _blobs(file, "mask", "bui", "integers")
        tied = {name: {i for i in found if "tied" in file[f"data/{name}/{i}"].attrs} for name, found in data.items()}
    layers = []
    for name, found in data.items():
        count = max(found, default=-1) + 1
        if count > len(found) + 64:
            raise FileFormatError(
                f'"{os.fspath(path)}" is not a valid caffemodel in HDF5: "/data/{name}" has a blob {count - 1}'
            )
        blobs: list[Any] = [found.get(i) for i in range(count)]
        blobs = [None if b is None else b.astype(np.float32, copy=False) for b in blobs]
        keep: list[Any] = [masks.get(name, {}).get(i) for i in range(count)]
        for i, (blob, mask) in enumerate(zip(blobs, keep, strict=True)):
            if mask is not None and (blob is None or mask.shape != blob.shape):
                text = f'"/mask/{name}/{i}" must have the shape of "/data/{name}/{i}", got {mask.shape}'
                raise FileFormatError(f'"{os.fspath(path)}" is not a valid caffemodel in HDF5: {text}')
        own = diffs.get(name, {})
        masked = [None if m is None else m != 0 for m in keep]
        gradients = [own.get(i) for i in range(count)]
        layers.append(LayerWeights(name, "", blobs, masked, gradients, tied=[i in tied[name] for i in range(count)]))
    return layers


def check_names(layers: Iterable[tuple[str, int]]) -> None:
    """Raise WeightsError for layers, given as (name, number of parameters), that HDF5 cannot tell apart or by name.

    A name is a path there: parts that are empty or "." vanish from it, and a part that is a number may be a parameter.
    """
    groups: set[str] = set()
    parameters: set[str] = set()
    for name, count in layers:
        parts = name.split("/")
        if count and any(part in ("", ".") for part in parts):
            raise WeightsError(
                f'layer "{name}" cannot be stored in HDF5, where its name is a path: give it another name'
            )
        mine = {f"{name}/{i}" for i in range(count)}
        if mine & parameters:
            raise WeightsError(f'two layers are called "{name}", which HDF5 cannot store: give one another name')
        groups |= {"/".join(parts[: i + 1]) for i in range(len(parts))}
        parameters |= mine
    for place in sorted(groups & parameters):
        raise WeightsError(f'layer "{place}" has the place of a parameter in HDF5: give it another name')


def write_weights(
    path: str | os.PathLike[str], weights: Sequence[LayerWeights], write_diff: bool = False, names: Sequence[str] = ()
) -> None:
    """Write a .caffemodel.h5 that BVLC Caffe reads: float32; masks in a group that it does not look at.

    Parameters
    ----------
    weights : for each layer that has some; a blob that is None (shared, and held by another layer) is left out
    write_diff : also store the gradients
    names : all layers of the net; Caffe gives each a group

    Raises WeightsError for names that HDF5 cannot store; see check_names.
    """
    held = {layer.name for layer in weights}
    without = [name for name in names if name not in held and not {"", "."} & set(name.split("/"))]
    check_names([*((layer.name, len(layer.blobs)) for layer in weights), *((name, 0) for name in without)])

    def fill(file: Any) -> None:
        for group in ("data", "diff") if write_diff else ("data",):
            file.require_group(group)
            for name in [*without, *held]:
                file.require_group(f"{group}/{name}")
        for layer in weights:
            for i, blob in enumerate(layer.blobs):
                if blob is None:
                    continue
                place = f"{layer.name}/{i}"
                made = file.create_dataset(f"data/{place}", data=np.asarray(blob, np.float32))
                if layer.tied[i]:
                    made.attrs["tied"] = True
                if write_diff and layer.diffs[i] is not None:
                    file.create_dataset(f"diff/{place}", data=np.asarray(layer.diffs[i], np.float32))
                mask = layer.masks[i]
                if mask is not None:
                    bits = np.asarray(mask, np.uint8)
                    packed = {"compression": "gzip", "shuffle": True} if bits.size and bits.ndim else {}
                    file.create_dataset(f"mask/{place}", data=bits, **packed)

    _write(path, fill)


def _write(path: str | os.PathLike[str], fill: Any) -> None:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    with atomic_write(path) as out:
        out.write(buffer.getbuffer())


def _number(file: Any, name: str) -> int:
    value = _array(_member(file, name), "iu", "integers")
    if value.size != 1 or not 0 <= int(value.ravel()[0]) < 1 << 31:
        raise _Damage(f'"/{name}" must be one number from 0 to 2^31 - 1, got {value!r}')
    return int(value.ravel()[0])


def read_state(path: str | os.PathLike[str]) -> SolverState:
    """Read a .solverstate.h5.

    Raises
    ------
    FileFormatError : no HDF5 file, damaged, or no solver state; names the file
    OSError : the file cannot be read
    """
    from google.protobuf.message import DecodeError

    from . import schema

    with _reading(path, "solverstate") as file:
        if "iter" not in file or "history" not in file:
            raise _Damage('it has no "/iter" and no "/history"')
        state = SolverState(_number(file, "iter"))
        if "current_step" in file:
            state.current_step = _number(file, "current_step")
        if "learned_net" in file:
            name = _array(_member(file, "learned_net"), "SO", "text").item()
            state.learned_net = (name if isinstance(name, bytes) else str(name).encode()).decode().rstrip("\0")
        history = _blobs(file, "history", "f", "floats").get("", {})
        if sorted(history) != list(range(len(history))):
            raise _Damage(f'"/history" must hold 0, 1, 2 ..., got {sorted(history)[:8]}')
        state.history = [history[i].astype(np.float32, copy=False) for i in range(len(history))]
        if "protocaffe" in file:
            content = _array(_member(_member(file, "protocaffe"), "resume"), "u", "bytes")
            try:
                state.resume = schema.ResumeState.FromString(content.astype(np.uint8).tobytes())
            except DecodeError as error:
                raise _Damage(f'"/protocaffe/resume" is damaged ({error})') from error
    return state


def write_state(path: str | os.PathLike[str], state: SolverState) -> None:
    """Write a .solverstate.h5 that BVLC Caffe reads too (it does not look at /protocaffe)."""

    def fill(file: Any) -> None:
        name = state.learned_net.encode()
        file.create_dataset("iter", data=np.array([state.iter], np.int32))
        # Caffe reads the name up to its zero, which must be there
        file.create_dataset("learned_net", data=np.array(name, f"S{len(name) + 1}"))
        file.create_dataset("current_step", data=np.array([state.current_step], np.int32))
        history = file.create_group("history")
        for i, values in enumerate(state.history):
            history.create_dataset(str(i), data=np.asarray(values, np.float32))
        if state.resume is not None:
            content = np.frombuffer(state.resume.SerializeToString(), np.uint8)
            file.create_dataset("protocaffe/resume", data=content)

    _write(path, fill)
