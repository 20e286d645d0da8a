"""Prototxt: parsing, messages about mistakes, what read_solver fills in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocaffe.errors import NetError, ParseError, ProtocaffeError
from protocaffe.io import prototxt


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ('name: "a"\nlayer {\n  nmae: "x"\n}', 3, 3, 'LayerParameter has no field "nmae"; did you mean "name"?'),
        ("layer { convolution_param { kernelsize: 3 } }", 1, 29, 'did you mean "kernel_size"'),
        ("layer { kernel_size: 3 }", 1, 9, "it belongs into convolution_param, pooling_param"),
        ("base_lr: 0.1", 1, 1, "SolverParameter has: is this file a solver?"),
        ("layer {\n pooling_param { pool: MAXX } }", 2, 24, 'has no value "MAXX"; did you mean "MAX"?'),
        ("layers { type: CONV }", 1, 16, "CONVOLUTION"),
        ('layer { name: "a" name: "b" }', 1, 0, 'field "name" of LayerParameter is given twice'),
        ('layer { name: "a" ', 1, 0, ""),
        ("layer { convolution_param { num_output: -1 } }", 1, 41, ""),
        ("layer { convolution_param { num_output: many } }", 1, 41, "many"),
    ],
)
def test_mistakes_are_located(tmp_path, text, line, column, said):
    file = tmp_path / "net.prototxt"
    file.write_text(text)
    with pytest.raises(ParseError) as caught:
        prototxt.read_net(file)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{file}:{line}:")
    assert caught.value.line == line
    if column:
        assert caught.value.column == column


def test_fields_of_a_net_in_a_solver():
    with pytest.raises(ParseError, match="is this file a net"):
        prototxt.parse_solver("layer { }")


def test_forms_that_caffe_takes():
    net = prototxt.parse_net(
        "# a comment\nname: 'single' ;\n"
        "layer < name: \"a\" 'b', loss_weight: 1.5f loss_weight: -.5 loss_weight: 1e-3 >\n"
        "layer { convolution_param: { kernel_size: [3, 0x5] bias_term: 0 } }\n"
    )
    assert net.name == "single" and net.layer[0].name == "ab"
    assert list(net.layer[0].loss_weight) == pytest.approx([1.5, -0.5, 1e-3])
    assert list(net.layer[1].convolution_param.kernel_size) == [3, 5]
    assert not net.layer[1].convolution_param.bias_term


def test_comments_in_any_encoding_and_a_byte_order_mark(tmp_path):
    file = tmp_path / "net.prototxt"
    file.write_bytes(b'\xef\xbb\xbfname: "a" # \xe4\xbd \xff\xfe\r\nlayer { name: "\xc3\xa9" }\r\n')
    net = prototxt.read_net(file)
    assert net.name == "a" and net.layer[0].name == "\u00e9"


def test_a_string_that_is_no_utf8(tmp_path):
    file = tmp_path / "net.prototxt"
    file.write_bytes(b'name: "\xff\xfe"')
    with pytest.raises(ParseError, match=r"net\.prototxt"):
        prototxt.read_net(file)


def test_a_binary_file_is_told_apart(tmp_path):
    file = tmp_path / "net.caffemodel"
    file.write_bytes(b"\x0a\x00\x01")
    with pytest.raises(ParseError, match="binary"):
        prototxt.read_net(file)


def test_deep_nesting_is_an_error():
    with pytest.raises(ParseError):
        prototxt.parse_solver("net_param { layer { name: " + "{" * 5000)


def test_old_and_new_layers_do_not_mix():
    with pytest.raises(NetError, match=r'where\.prototxt: .*"layers"'):
        prototxt.parse_net('layer { name: "a" } layers { name: "b" }', "where.prototxt")


def test_text_round_trip():
    text = 'name: "\u00e9"\nlayer {\n  name: "c"\n  loss_weight: 0.0039\n  pooling_param {\n    pool: AVE\n  }\n}\n'
    assert prototxt.to_text(prototxt.parse_net(text)) == text


def test_snapshot_prefix_of_a_solver(tmp_path):
    file = tmp_path / "lenet_solver.prototxt"
    file.write_text('net: "x"')
    assert prototxt.read_solver(file).snapshot_prefix == str(tmp_path / "lenet_solver")
    file.write_text(f'snapshot_prefix: "{tmp_path}"')
    assert prototxt.read_solver(file).snapshot_prefix == str(tmp_path / "lenet_solver")
    file.write_text('snapshot_prefix: "some/where"')
    assert prototxt.read_solver(file).snapshot_prefix == "some/where"


PIECES = [
    "layer",
    "{",
    "}",
    "<",
    ">",
    ":",
    '"a"',
    "name",
    "type",
    "param",
    "1",
    "-1",
    "[",
    "]",
    ",",
    "\n",
    "'",
    "\\",
    "e",
    "#",
    "input",
]


@given(st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join) | st.text(max_size=60))
def test_only_our_errors(text):
    try:
        prototxt.parse_net(text)
    except ProtocaffeError as e:
        assert "<text>" in str(e)
