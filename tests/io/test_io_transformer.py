"""Images into the form of a net's inputs: each step, their order, the way back; loading, resizing, cropping."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import protocaffe
from protocaffe.errors import FileFormatError, NetError, ParameterError, ShapeError
from protocaffe.io import Transformer, load_image, oversample, resize_image


@pytest.fixture
def rng():
    return np.random.default_rng(3)


# -------------------------------------------------------------------------------------------------------- Transformer
def test_the_order_of_operations(rng):
    image = rng.random((5, 6, 3))
    mean = rng.random((3, 5, 6)) * 255
    t = Transformer({"data": (10, 3, 5, 6)})
    t.set_input_scale("data", 0.017)
    t.set_mean("data", mean)
    t.set_raw_scale("data", 255)
    t.set_channel_swap("data", (2, 1, 0))
    t.set_transpose("data", (2, 0, 1))
    before = image.copy()
    out = t.preprocess("data", image)
    want = (image.transpose(2, 0, 1)[::-1] * 255 - mean) * 0.017
    assert out.dtype == np.float32 and out.shape == (3, 5, 6)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_allclose(t.deprocess("data", out), image, atol=1e-5)
    np.testing.assert_allclose(t.deprocess("data", out[None]), image, atol=1e-5)


def test_nothing_set_changes_nothing(rng):
    image = rng.random((4, 4, 3), dtype=np.float32)
    t = Transformer({"data": (1, 3, 4, 4)})
    out = t.preprocess("data", image)
    np.testing.assert_array_equal(out, image)
    assert not np.shares_memory(out, image)


def test_float32_images_are_left_alone(rng):
    image = rng.random((4, 4, 1), dtype=np.float32)
    before = image.copy()
    t = Transformer({"data": (1, 1, 4, 4)})
    t.set_transpose("data", (2, 0, 1))
    t.set_raw_scale("data", 255)
    out = t.preprocess("data", image)
    np.testing.assert_array_equal(image, before)
    assert t.deprocess("data", out).shape == (4, 4, 1)


def test_images_of_another_size_are_resized_first(rng):
    image = rng.random((9, 7, 3))
    t = Transformer({"data": (1, 3, 4, 6)})
    t.set_transpose("data", (2, 0, 1))
    out = t.preprocess("data", image)
    np.testing.assert_array_equal(out, resize_image(image, (4, 6)).transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(3,), (3, 4, 6), (4, 6), (3, 8, 12), (3, 1, 1), (1,)])
def test_means_of_every_shape(rng, shape):
    channels = 1 if shape == (1,) else 3
    mean = rng.random(shape).astype(np.float32)
    t = Transformer({"data": (2, channels, 4, 6)})
    t.set_mean("data", mean)
    t.set_transpose("data", (2, 0, 1))
    if shape == (3, 8, 12):
        mean = mean.reshape(3, 4, 2, 6, 2).mean((2, 4))
    want = 1 - (mean[:, None, None] if mean.ndim == 1 else mean)
    out = t.preprocess("data", np.ones((4, 6, channels)))
    np.testing.assert_allclose(out, np.broadcast_to(want, (channels, 4, 6)), atol=1e-6)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda t: t.set_raw_scale("dat", 1), NetError, 'no input "dat"; did you mean "data"'),
        (lambda t: t.preprocess("x", np.zeros((4, 4, 3))), NetError, 'no input "x"'),
        (lambda t: t.deprocess("x", np.zeros((4, 4, 3))), NetError, 'no input "x"'),
        (lambda t: t.set_transpose("data", (2, 0)), ParameterError, r"must order the numbers 0 to 2, got \(2, 0\)"),
        (lambda t: t.set_transpose("data", (2, 0, 0)), ParameterError, "must order the numbers 0 to 2"),
        (lambda t: t.set_channel_swap("data", (1, 0)), ParameterError, "channel swap .* must order the numbers 0 to 2"),
        (lambda t: t.set_mean("data", np.zeros(4)), ShapeError, r'the mean of "data" must have shape \(3,\), \(H, W\)'),
        (lambda t: t.set_mean("data", np.zeros((4, 4, 3))), ShapeError, r"got \(4, 4, 3\)"),
        (lambda t: t.set_mean("data", np.zeros((1, 3, 4, 4))), ShapeError, r"got \(1, 3, 4, 4\)"),
        (lambda t: t.set_mean("data", np.zeros(1)), ShapeError, r"got \(1, 1, 1\)"),
    ],
)
def test_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call(Transformer({"data": (1, 3, 4, 4)}))


def test_data_that_does_not_fit_the_settings():
    t = Transformer({"data": (1, 3, 4, 4)})
    t.set_mean("data", np.zeros((3, 4, 4)))
    with pytest.raises(ShapeError, match="the mean of"):
        t.preprocess("data", np.zeros((4, 4, 2)))
    t.set_transpose("data", (2, 0, 1))
    with pytest.raises(ShapeError, match=r"must have 3 axes, got shape \(4, 4\)"):
        t.preprocess("data", np.zeros((4, 4)))


def test_what_it_makes_goes_into_a_net(tmp_path, rng):
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    net = protocaffe.Net(
        protocaffe.io.parse_net(
            'layer { name: "data" type: "Input" top: "data" '
            "input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }"
            'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }'
        ),
        protocaffe.TEST,
    )
    t = protocaffe.io.Transformer({"data": net.blobs["data"].data.shape})
    t.set_transpose("data", (2, 0, 1))
    t.set_raw_scale("data", 255)
    net.blobs["data"].data[...] = t.preprocess("data", protocaffe.io.load_image(tmp_path / "a.png"))
    assert net.forward()["ip"].shape == (2, 2)


# --------------------------------------------------------------------------------------------------------- load_image
def test_colour_images(tmp_path, rng):
    pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path = tmp_path / "c.png"
    Image.fromarray(pixels).save(path)
    image = load_image(path)
    assert image.dtype == np.float32 and image.shape == (4, 5, 3)
    np.testing.assert_allclose(image, pixels / 255, atol=1e-7)
    gray = load_image(str(path), color=False)
    assert gray.shape == (4, 5, 1)
    np.testing.assert_allclose(gray[..., 0], pixels / 255 @ [0.2125, 0.7154, 0.0721], atol=1e-6)


def test_gray_images(tmp_path, rng):
    pixels = rng.integers(0, 256, (4, 5), dtype=np.uint8)
    path = tmp_path / "g.png"
    Image.fromarray(pixels).save(path)
    np.testing.assert_allclose(load_image(path, color=False)[..., 0], pixels / 255, atol=1e-7)
    np.testing.assert_array_equal(load_image(path), np.tile(load_image(path, False), (1, 1, 3)))


def test_sixteen_bits(tmp_path):
    path = tmp_path / "16.png"
    Image.fromarray(np.array([[0, 65535, 13107]], np.uint16)).save(path)
    np.testing.assert_allclose(load_image(path, color=False)[0, :, 0], [0, 1, 0.2], atol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK", "F"])
def test_other_kinds_of_images(tmp_path, mode):
    white = Image.new("RGB", (3, 2), (255, 255, 255)).convert("L" if mode in ("LA", "F") else "RGB").convert(mode)
    if "A" in mode:
        white.putalpha(128)
    if mode == "F":
        white = white.point(lambda v: v * (1 / 255) + 0)
    path = tmp_path / ("i.tif" if mode in ("CMYK", "F") else "i.png")
    white.save(path)
    np.testing.assert_allclose(load_image(path), np.ones((2, 3, 3)), atol=1e-6)
    assert load_image(path, color=False).shape == (2, 3, 1)


def test_files_that_are_no_images(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"hello")
    with pytest.raises(FileFormatError, match=r"x\.png"):
        load_image(path)
    Image.new("RGB", (50, 50), (1, 2, 3)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FileFormatError, match=r"x\.png"):
        load_image(path)
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "none.png")


# ------------------------------------------------------------------------------------------------------- resize_image
def slow_bilinear(im, dims):
    """Each pixel by the textbook: the four neighbours of its centre, the border repeated."""
    (old_h, old_w), (new_h, new_w) = im.shape[:2], dims
    out = np.zeros((new_h, new_w, *im.shape[2:]))
    for i in range(new_h):
        for j in range(new_w):
            y, x = (i + 0.5) * old_h / new_h - 0.5, (j + 0.5) * old_w / new_w - 0.5
            y, x = min(max(y, 0), old_h - 1), min(max(x, 0), old_w - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, old_h - 1), min(left + 1, old_w - 1)
            fy, fx = y - top, x - left
            out[i, j] = (1 - fy) * ((1 - fx) * im[top, left] + fx * im[top, right]) + fy * (
                (1 - fx) * im[bottom, left] + fx * im[bottom, right]
            )
    return out


@pytest.mark.parametrize("dims", [(5, 7), (13, 9), (1, 1), (3, 20), (10, 14)])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (5,)])
def test_bilinear(rng, dims, channels):
    im = rng.normal(size=(5, 7, *channels))
    np.testing.assert_allclose(resize_image(im, dims), slow_bilinear(im, dims), atol=1e-5)


def test_enlarging_agrees_with_pillow(rng):
    im = rng.random((6, 5), dtype=np.float32)
    for order, method in ((0, Image.Resampling.NEAREST), (1, Image.Resampling.BILINEAR), (3, Image.Resampling.BICUBIC)):
        want = np.asarray(Image.fromarray(im).resize((15, 18), method))
        inner = (slice(None), slice(None)) if order < 3 else (slice(6, -6), slice(6, -6))  # borders: renormalised there
        np.testing.assert_allclose(resize_image(im, (18, 15), order)[inner], want[inner], atol=1e-5)


def test_a_copy_is_returned():
    im = np.zeros((2, 2, 1), np.float32)
    assert not np.shares_memory(resize_image(im, (2, 2)), im)


def test_resize_errors():
    with pytest.raises(ParameterError, match="interp_order must be 0, 1 or 3, got 2"):
        resize_image(np.zeros((2, 2, 1)), (1, 1), 2)
    with pytest.raises(ShapeError, match="got \\(3,\\)"):
        resize_image(np.zeros(3), (1, 1))
    with pytest.raises(ShapeError, match="new_dims"):
        resize_image(np.zeros((2, 2)), (0, 1))


# --------------------------------------------------------------------------------------------------------- oversample
def test_ten_crops(rng):
    images = [rng.random((6, 9, 2), dtype=np.float32) for _ in range(2)]
    crops = oversample(images, (4, 5))
    assert crops.shape == (20, 4, 5, 2) and crops.dtype == np.float32
    for i, im in enumerate(images):
        five = [im[:4, :5], im[:4, 4:], im[2:, :5], im[2:, 4:], im[1:5, 2:7]]
        np.testing.assert_array_equal(crops[10 * i : 10 * i + 5], five)
        np.testing.assert_array_equal(crops[10 * i + 5 : 10 * i + 10], [c[:, ::-1] for c in five])


def test_crops_that_do_not_fit():
    with pytest.raises(ShapeError, match="crops of 7 x 4 do not fit"):
        oversample([np.zeros((6, 6, 3))], (7, 4))
    with pytest.raises(ShapeError, match="images of one shape"):
        oversample([np.zeros((6, 6, 3)), np.zeros((6, 6, 1))], (2, 2))
    with pytest.raises(ShapeError, match="images of one shape"):
        oversample([], (2, 2))
