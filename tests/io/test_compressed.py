"""Compressed models: what is stored comes back to the bit, damage is refused, sizes are checked."""

import math
import resource
import struct
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protocaffe.errors import FileFormatError, ParameterError, WeightsError
from protocaffe.io import compressed, compressed_writer, sparse_code
from protocaffe.io.compressed import CodedBlob, CodedLayer, checksum, grid, read_coded, read_compressed, read_net_of
from protocaffe.io.compressed_writer import pack
from protocaffe.io.mixing import Decoder, Encoder, slot
from protocaffe.io.primer import PRIMER
from protocaffe.io.prototxt import parse_net, read_net
from protocaffe.io.schema import NetParameter
from protocaffe.pruning.compress import code_blob

NET = parse_net('name: "n" layer { name: "a" type: "PReLU" } layer { name: "b" type: "PReLU" } layer { name: "a" }')
SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=7)
SOME_FLOATS = st.one_of(st.just(0.0), st.floats(width=32), st.floats(-3, 3, width=32))


@pytest.fixture(params=["mixed", "bytes"])
def way(request, monkeypatch):
    """Both ways to store positions and codes."""
    if request.param == "bytes":
        monkeypatch.setattr(compressed_writer, "SPENT_STEPS", -1)
    return request.param


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("pcz") / "a.pcz"


def through(file, *blobs):
    """Parameters of layer "b", written and read again."""
    file.write_bytes(pack(NET, [CodedLayer("b", list(blobs))])[0])
    net, [(place, got)] = read_coded(file)
    assert net.SerializeToString() == NET.SerializeToString()
    assert place == 1
    return got


def same(got, blob):
    assert got.shape == blob.shape
    assert got.data.tobytes() == blob.data.tobytes()
    assert (got.mask is None) == (blob.mask is None)
    assert got.mask is None or np.array_equal(got.mask, blob.mask)


@settings(max_examples=60, deadline=None)
@given(values=hnp.arrays(np.float32, SHAPES, elements=SOME_FLOATS), bits=st.integers(0, 8), linear=st.booleans())
def test_any_array_comes_back_as_it_was_coded(file, values, bits, linear):
    masks = [None, values != 0]
    for spend in (1 << 20, -1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compressed_writer, "SPENT_STEPS", spend)
            blobs = [code_blob(values, mask, bits, linear) for mask in masks]
            for got, blob in zip(through(file, *blobs), blobs, strict=True):
                same(got, blob)
                if not bits or not np.isfinite(values).all():
                    assert np.array_equal(got.data, values, equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(kept=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=40)))
def test_positions_come_back(kept):
    coder = Encoder()
    sparse_code.positions(coder, kept, lambda steps: None)
    spent = []
    got = sparse_code.positions(Decoder(coder.finish()), np.zeros_like(kept), spent.append)
    assert np.array_equal(got, kept)
    assert sum(spent) == sparse_code.steps(kept, 0)
    width, symbols = sparse_code.pack_gaps(kept.ravel())
    assert np.array_equal(sparse_code.unpack_gaps(symbols, width, kept.size), kept.ravel())


def test_long_gaps_take_fillers_and_the_width_follows_the_sparsity():
    widths = []
    for share, hole in ((0.5, 0), (0.03, 0), (0.03, 90_000)):
        kept = np.random.default_rng(1).random(200_000) < share
        kept[:hole] = False
        width, symbols = sparse_code.pack_gaps(kept)
        widths.append(width)
        assert len(symbols) > np.count_nonzero(kept) or not hole
        assert np.array_equal(sparse_code.unpack_gaps(symbols, width, kept.size), kept)
    assert widths[0] < widths[1]


def test_indices_that_leave_their_parameter_are_refused():
    assert sparse_code.unpack_gaps(np.array([3, 3], np.uint8), 4, 7) is None
    assert sparse_code.unpack_gaps(np.array([3, 3], np.uint8), 4, 8) is not None
    assert sparse_code.unpack_gaps(np.array([16], np.uint8), 4, 100) is None


def test_the_coder_comes_near_the_entropy():
    bits = (np.random.default_rng(2).random(20_000) < 0.1).astype(int).tolist()
    coder, one, weights = Encoder(), slot(), [1.0]
    for bit in bits:
        coder.bit(bit, (one,), weights)
    packed = coder.finish()
    p = sum(bits) / len(bits)
    entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) * len(bits) / 8
    assert entropy < len(packed) < 1.02 * entropy
    decoder, one, weights = Decoder(packed), slot(), [1.0]
    assert [decoder.bit(0, (one,), weights) for _ in bits] == bits


def test_the_coders_tables_do_not_hang_by_a_thread():
    """They are rounded from exp and log: no value lies so near a half that another machine could round otherwise."""
    exact = [256 * math.log((i + 0.5) / (4095.5 - i)) for i in range(4096)]
    exact += [65536 / (1 + math.exp((2047 - i) / 170)) for i in range(4095)]
    assert min(abs(x - math.floor(x) - 0.5) for x in exact) > 1e-7


def test_the_primer_is_a_net_and_the_format_stays_as_it_is():
    assert NetParameter.FromString(PRIMER).layer[1].type == "Data"
    book = np.array([-1, 0.5, 2], np.float32)
    kept = np.arange(60) % 7 == 3
    blob = CodedBlob((6, 10), kept, True, book, np.arange(9, dtype=np.uint8) % 3)
    content, _ = pack(NET, [CodedLayer("b", [blob, CodedBlob((3,), None, False, None, np.ones(3, np.float32))])])
    assert content.hex() == GOLDEN


GOLDEN = (
    "8950435a01b4f7a00323000c2cf2fbc96709316fbdbecf15bef9b561e759823dc37f5eec47b93552fcd3b1db3fe035412084cb33f55cf11df9"
    "636000818686067b7b7b00"
)


def test_shared_parameters_are_held_once(file):
    net = parse_net(
        'layer { name: "a" type: "PReLU" param { name: "s" } } layer { name: "b" type: "PReLU" param { name: "s" } }'
    )
    blob = code_blob(np.arange(6, dtype=np.float32).reshape(2, 3), None, 0)
    file.write_bytes(pack(net, [CodedLayer("a", [blob]), CodedLayer("b", [(3, 2)])])[0])
    a, b = read_compressed(file)
    assert b.blobs[0].shape == (3, 2)
    assert np.array_equal(a.blobs[0].ravel(), b.blobs[0].ravel())
    file.write_bytes(pack(net, [CodedLayer("b", [(3, 2)])])[0])
    with pytest.raises(FileFormatError, match='layer "b" shares a parameter that the file does not hold'):
        read_compressed(file)


def test_layers_of_one_name_keep_their_order(file):
    blobs = [code_blob(np.full(2, k, np.float32), None, 0) for k in (1, 2)]
    file.write_bytes(pack(NET, [CodedLayer("a", [blobs[0]]), CodedLayer("a", [blobs[1]])])[0])
    assert [(x.name, x.blobs[0][0]) for x in read_compressed(file)] == [("a", 1), ("a", 2)]


def test_what_cannot_be_written_is_named(monkeypatch):
    with pytest.raises(WeightsError, match='the net has no layer "x" for its weights'):
        pack(NET, [CodedLayer("x", [])])
    monkeypatch.setattr(compressed_writer, "FREE_VALUES", 0)
    with pytest.raises(ParameterError, match="parameters that are nearly all 0: their number is 16000000"):
        pack(NET, [CodedLayer("b", [code_blob(np.zeros((4000, 4000), np.float32), None, 5)])])


def test_large_nets_are_deflated(file):
    net = parse_net("".join(f'layer {{ name: "layer{i}" type: "ReLU" }}' for i in range(3000)))
    blob = code_blob(np.arange(6, dtype=np.float32), None, 0)
    file.write_bytes(pack(net, [CodedLayer("layer2999", [blob])])[0])
    assert read_net_of(file) == net
    assert read_net(file) == net
    assert np.array_equal(read_compressed(file)[0].blobs[0], np.arange(6))


def entropy(values):
    """In bytes, of independent values."""
    counts = np.unique(values, return_counts=True)[1]
    return -(counts * np.log2(counts / counts.sum())).sum() / 8


def test_large_parameters_are_read_at_once(file):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(2000, 2000)).astype(np.float32) * (rng.random((2000, 2000)) < 0.1)
    blob = code_blob(values, values != 0, 5)
    start = time.perf_counter()
    same(through(file, blob)[0], blob)
    assert time.perf_counter() - start < 10
    assert file.stat().st_size < 1.03 * (entropy(values.ravel() != 0) + entropy(blob.values))


# ----------------------------------------------------------------------------------------------------------- damage
@pytest.fixture(scope="module")
def good():
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(12, 9)).astype(np.float32) * (rng.random((12, 9)) < 0.3)
    bias = rng.normal(size=12).astype(np.float32)
    blobs = [code_blob(weights, weights != 0, 3), code_blob(bias, None, 6, True), code_blob(bias, None, 0)]
    blobs.append(code_blob(np.float32(7e4) * bias, None, 3))
    return blobs


@pytest.fixture
def little_memory():
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (900 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("content", [b"", b"\x89PCZ", b"\x89PCZ\x01abc", b"\x89PCZ\x02" + bytes(40), b"x" * 50])
def test_what_is_no_such_file_is_refused(file, content):
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match=r'^".*a\.pcz" is (no|a) compressed model(:| that)') as error:
        read_compressed(file)
    assert "\n" not in str(error.value)


def test_every_flipped_byte_is_noticed(file, good, way):
    content = pack(NET, [CodedLayer("b", good)])[0]
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=str(file)):
            read_compressed(file)
    for size in range(0, len(content), 7):
        file.write_bytes(content[:size])
        with pytest.raises(FileFormatError, match=str(file)):
            read_compressed(file)


def test_damage_with_a_right_checksum_does_no_harm(file, good, way, little_memory):
    """As someone of ill will could write it: an error of ours or other values, never much memory."""
    content = pack(NET, [CodedLayer("b", good)])[0]
    rng = np.random.default_rng(len(content))
    seen = Counter()
    for k in range(120):
        damaged = bytearray(content)
        reach = 9 + 12 if k % 3 == 0 else len(content)  # the sizes more often than others
        for place in rng.integers(9, reach, rng.integers(1, 4)).tolist():
            damaged[place] = rng.integers(0, 256)
        damaged[5:9] = struct.pack("<I", checksum(bytes(damaged[9:])))
        file.write_bytes(damaged)
        try:
            read_compressed(file)
        except FileFormatError as error:
            assert str(file) in str(error)
            seen["refused"] += 1
        else:
            seen["read"] += 1
    assert seen["refused"] > 20
    assert seen["read"] > 0


def directory(*numbers, tail=b""):
    return bytes(numbers) + tail


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        (directory(1, 9, 1), "has parameters of a layer 9, the net has 3"),
        (directory(1, 1, 1, 0x21, 1, *b"\xff\xff\xff\xff\x7f", 0), "more than it can hold"),
        (directory(1, 1, 1, 0x40), r"has an unknown kind of parameter \(64\)"),
        (directory(1, 1, 1, 0x02, 1, 1), r"has an impossible kind of parameter \(2\)"),
        (directory(1, 1, 1, 0x23, 1, 1), r"has an impossible kind of parameter \(35\)"),
        (directory(1, 1, 1, 0x21, 99), "claims 99 axes"),
        (directory(1, 1, 1, 0x03, 1, 4, 9, 1, 1), "claims 9 bits in a relative index"),
        (directory(1, 1, 1, 0x03, 1, 4, 0, 1, 1), "relative indices of 0 bits"),
        (directory(1, 1, 1, 0x03, 1, 4, 3, 9, 9, 0), "claims 9 relative indices for 4 values"),
        (directory(1, 1, 1, 0x01, 1, 4, 16), "claims a section of 16 bytes"),
        (directory(1, 1, 1, 0x29, 1, 4, tail=struct.pack("<f", -1) + b"\x03"), "has a grid with a step of -1.0"),
        (directory(1, 1, 1, 0x31, 1, 4, *b"\x81\x02"), "claims 257 centroids"),
        (directory(1, 1, 1, 0x31, 1, 4, 0), "has codes beyond their book of 0"),
        (directory(1, 1, 1, 0x31, 3, *b"\x80\x20" * 2, 1, 2), "asks for more work than a file may"),
        (directory(1, 1, 0, 0), "has a directory with bytes left over"),
        (directory(1, 1), "ends inside a number"),
        (directory(1, 1, 1), "has a directory that ends too early"),
    ],
)
def test_each_field_is_checked(file, entries, complaint):
    coder = Encoder()
    coder.learn(PRIMER)
    text = NET.SerializeToString(deterministic=True)
    coder.text(text, len(text))
    coder.text(entries, len(entries))
    stream = coder.finish()
    rest = bytes((len(text), 0, len(entries), *compressed_writer._varint(len(stream)))) + stream
    file.write_bytes(compressed.MAGIC + b"\x01" + struct.pack("<I", checksum(rest)) + rest)
    with pytest.raises(FileFormatError, match=complaint):
        read_compressed(file)


def test_a_grid_is_symmetric_about_zero():
    assert np.array_equal(grid(0.5, 2), np.array([-1, -0.5, 0, 0.5, 1], np.float32))
