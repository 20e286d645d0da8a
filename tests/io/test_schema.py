"""The schema: field numbers, defaults, a pool of our own, messages of layers from outside."""

from __future__ import annotations

import subprocess
import sys

import pytest

from protocaffe.errors import ParameterError
from protocaffe.io import prototxt, schema


@pytest.mark.parametrize(
    ("message", "field", "number"),
    [
        ("NetParameter", "layers", 2),
        ("NetParameter", "layer", 100),
        ("BlobProto", "data", 5),
        ("BlobProto", "shape", 7),
        ("BlobProto", "raw_data", 12),
        ("BlobProto", "mask", 5000),
        ("LayerParameter", "blobs", 7),
        ("LayerParameter", "convolution_param", 106),
        ("LayerParameter", "clip_param", 148),
        ("LayerParameter", "permute_param", 202),
        ("LayerParameter", "norm_param", 206),
        ("LayerParameter", "roi_pooling_param", 8266711),
        ("V1LayerParameter", "blob_share_mode", 1002),
        ("V0LayerParameter", "hdf5_output_param", 1001),
        ("SolverParameter", "weights", 42),
        ("SolverState", "current_step", 4),
        ("ConvolutionParameter", "mask_filler", 5000),
        ("PoolingParameter", "round_mode", 13),
    ],
)
def test_field_numbers(message, field, number):
    assert schema.message_class(message).DESCRIPTOR.fields_by_name[field].number == number


def test_no_field_is_required_and_packed_is_as_in_caffe():
    packed = set()
    for name in dir(schema):
        descriptor = getattr(getattr(schema, name), "DESCRIPTOR", None)
        for field in getattr(descriptor, "fields", ()):
            assert not getattr(field, "is_required", False), f"{name}.{field.name}"
            if field.GetOptions().packed and field.number < 5000:
                packed.add(f"{name}.{field.name}")
    ours = {"ResumeState.loss_window", "ResumeState.test_forward_count"}
    assert packed - ours == {
        "BlobShape.dim",
        "BlobProto.data",
        "BlobProto.diff",
        "BlobProto.double_data",
        "BlobProto.double_diff",
    }


def test_defaults():
    solver = schema.SolverParameter()
    assert (solver.type, solver.momentum2, solver.snapshot_format) == ("SGD", pytest.approx(0.999), 1)
    assert solver.delta == pytest.approx(1e-8) and solver.test_initialization and solver.iter_size == 1
    layer = schema.LayerParameter()
    assert layer.lrn_param.local_size == 5 and layer.batch_norm_param.eps == pytest.approx(1e-5)
    assert layer.eltwise_param.operation == schema.EltwiseParameter.SUM
    assert layer.data_param.prefetch == 4 and layer.loss_param.normalization == schema.LossParameter.VALID
    assert schema.NetState().phase == schema.TEST == 1
    assert schema.Phase.Name(0) == "TRAIN"


def test_unknown_name_has_a_hint():
    with pytest.raises(AttributeError, match="NetParameter"):
        _ = schema.NetParametr


def test_unknown_fields_are_kept():
    layer = schema.LayerParameter(name="a")
    strange = layer.SerializeToString() + b"\xfa\x8c\x06\x03abc"  # field 12719, three bytes
    assert schema.LayerParameter.FromString(strange).SerializeToString() == strange


def test_two_schemas_in_one_process():
    """Another caffe.proto in protobuf's own pool does no harm."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
    file.message_type.add(name="NetParameter")
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName("caffe.proto")
    except KeyError:
        pool.AddSerializedFile(file.SerializeToString())
    assert schema.NetParameter(name="x").name == "x"


FIELDS = {
    "alpha": ("float", 1.5),
    "axes": ("repeated int32", None),
    "mode": ("enum SUM MAX", "MAX"),
    "filler": ("FillerParameter", None),
    "on": ("bool", True),
}


def test_a_layer_from_outside_brings_its_parameters():
    before = schema.NetParameter(name="old")
    number = schema.add_layer_parameter("test_schema_param", FIELDS)
    assert number == schema.add_layer_parameter("test_schema_param", FIELDS)
    net = prototxt.parse_net(
        'layer { name: "x" test_schema_param { alpha: 2 axes: [1, 3] mode: SUM filler { type: "xavier" } } }'
    )
    param = net.layer[0].test_schema_param
    assert (param.alpha, list(param.axes), param.mode, param.filler.type, param.on) == (2, [1, 3], 0, "xavier", True)
    empty = schema.LayerParameter().test_schema_param
    assert empty.alpha == 1.5 and empty.mode == type(empty).MAX
    assert schema.NetParameter.FromString(net.SerializeToString()) == net
    now = schema.current(before)
    assert isinstance(now, schema.NetParameter) and now.name == "old"


@pytest.mark.parametrize(
    ("name", "fields", "number", "said"),
    [
        ("test_schema_param2", {"a": ("flaot", None)}, None, 'did you mean "float"'),
        ("test_schema_param2", {"a": ("float", "abc")}, None, "abc"),
        ("test_schema_param2", {"a": ("float", 1)}, 106, "convolution_param"),
        ("test_schema_param2", {"a": ("float", 1)}, 77, "5000"),
        ("relu_param", {}, None, "already"),
        ("Big", {}, None, "lower-case"),
    ],
)
def test_wrong_parameters_are_refused(name, fields, number, said):
    with pytest.raises(ParameterError, match=said):
        schema.add_layer_parameter(name, fields, number)
    assert schema.LayerParameter().name == ""  # the schema still works


def test_same_name_with_other_fields_is_refused():
    schema.add_layer_parameter("test_schema_twice_param", {"a": ("float", None)})
    with pytest.raises(ParameterError, match="already added"):
        schema.add_layer_parameter("test_schema_twice_param", {"a": ("int32", None)})


def test_caffe_pb2_has_the_same_classes():
    from protocaffe.proto import caffe_pb2

    assert caffe_pb2.Datum is schema.Datum and caffe_pb2.TRAIN == 0
    assert "NetParameter" in dir(caffe_pb2)


def test_a_source_that_does_not_compile(tmp_path):
    broken = tmp_path / "x.proto"
    broken.write_text("message {")
    with pytest.raises(RuntimeError, match=r"x\.proto"):
        schema.compile_descriptor(broken, tmp_path / "x.desc")
    assert not list(tmp_path.glob("x.desc*"))


@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_both_protobuf_runtimes(implementation, tmp_path):
    code = (
        "from protocaffe.io import schema, prototxt\n"
        "from google.protobuf.internal import api_implementation\n"
        f"assert api_implementation.Type() == {implementation!r}, api_implementation.Type()\n"
        "schema.add_layer_parameter('x_param', {'a': ('float', 2.0)})\n"
        "net = prototxt.parse_net('layer { name: \"c\" x_param { a: 3 } }')\n"
        "assert schema.NetParameter.FromString(net.SerializeToString()).layer[0].x_param.a == 3\n"
        "from protocaffe.errors import ParseError\n"
        "try: prototxt.parse_net('layer { nam: 3 }')\n"
        "except ParseError as e: assert 'did you mean \"name\"' in str(e), e\n"
    )
    env = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation, "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, cwd=tmp_path)
