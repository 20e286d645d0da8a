import io

import numpy as np
import pytest
from PIL import Image

from protocaffe.data.datum import RawLayout, decode_datum, decode_image, encode_datum
from protocaffe.io import schema

RNG = np.random.default_rng(0)


def encoded(pixels, mode=None, kind="PNG"):
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


def test_raw_bytes_and_floats_come_back():
    item = RNG.integers(0, 256, (2, 3, 4), np.uint8)
    got, label = decode_datum(encode_datum(item, 7))
    assert got.dtype == np.uint8 and label == 7
    np.testing.assert_array_equal(got, item)
    floats = RNG.normal(size=(1, 2, 2)).astype(np.float32)
    got, label = decode_datum(encode_datum(floats))
    assert got.dtype == np.float32 and label is None
    np.testing.assert_array_equal(got, floats)


def test_images_are_blue_green_red():
    pixels = RNG.integers(0, 256, (5, 6, 3), np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(pixels)), pixels[:, :, ::-1].transpose(2, 0, 1))
    alpha = RNG.integers(0, 256, (5, 6, 4), np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(alpha)), alpha[:, :, [2, 1, 0, 3]].transpose(2, 0, 1))
    np.testing.assert_array_equal(decode_image(encoded(alpha), force_color=True), decode_image(encoded(alpha))[:3])


def test_grey_images_and_forced_modes():
    grey = RNG.integers(0, 256, (5, 6), np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(grey)), grey[None])
    np.testing.assert_array_equal(decode_image(encoded(grey), force_color=True), np.stack([grey] * 3))
    color = RNG.integers(0, 256, (5, 6, 3), np.uint8)
    luma = color @ [0.299, 0.587, 0.114]
    assert abs(decode_image(encoded(color), force_gray=True)[0] - luma).max() <= 1
    assert decode_image(encoded(color, kind="JPEG"), force_gray=True).shape == (1, 5, 6)
    palette = encoded(np.zeros((4, 4, 3), np.uint8), "P")
    assert decode_image(palette).shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xff\xff\xff", "not a Datum message of 3 bytes"),
        (b"", "says 0 x 0 x 0"),
        (encode_datum(np.zeros((1, 2, 2), np.uint8))[:-1] + b"", "Datum"),
        (schema.Datum(channels=3, height=2, width=2, data=b"12345").SerializeToString(), "3 x 2 x 2 but holds 5"),
        (schema.Datum(encoded=True, data=b"no image").SerializeToString(), "cannot be decoded"),
        (schema.Datum(encoded=True, data=encoded(np.zeros((2, 2), np.uint16))).SerializeToString(), "8 bits"),
        (
            schema.Datum(encoded=True, data=encoded(RNG.integers(0, 9, (9, 9), np.uint8))[:60]).SerializeToString(),
            "dec",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_says_what_is_wrong(payload, reason):
    with pytest.raises(ValueError, match=reason):
        decode_datum(payload)


def test_layout_splits_uniform_records_and_leaves_others():
    items = RNG.integers(0, 256, (4, 2, 3, 3), np.uint8)
    payloads = [encode_datum(item, label) for item, label in zip(items, (0, 5, 127, 9), strict=True)]
    layout = RawLayout.of(payloads[0])
    got, labels = layout.split(payloads)
    np.testing.assert_array_equal(got, items)
    np.testing.assert_array_equal(labels, [0, 5, 127, 9])
    assert layout.split([*payloads, encode_datum(items[0], 128)]) is None
    assert layout.split([*payloads, encode_datum(items[0].reshape(2, 1, 9), 1)]) is None
    assert RawLayout.of(encode_datum(items[0])) is None
    assert RawLayout.of(encode_datum(items[0].astype(np.float32), 1)) is None


def test_layout_views_records_with_labels_of_any_length():
    items, numbers = RNG.integers(0, 256, (6, 2, 3, 3), np.uint8), (300, 5, 127, 128, 16384, (1 << 28) - 1)
    payloads = [encode_datum(item, label) for item, label in zip(items, numbers, strict=True)]
    for first in payloads:
        views, labels = RawLayout.of(first).views(payloads)
        np.testing.assert_array_equal(views, items)
        np.testing.assert_array_equal(labels, np.array(numbers, np.float32))
    layout = RawLayout.of(payloads[0])
    for other in (
        encode_datum(items[0]),
        encode_datum(items[0], -1),
        encode_datum(items[0], 1 << 28),
        encode_datum(items[0].reshape(2, 1, 9), 1),
        payloads[0][:-1],
        payloads[0] + b"\x01",
        payloads[0] + encode_datum(items[0], 1),
    ):
        assert layout.views([payloads[0], other]) is None
    assert RawLayout.of(encode_datum(items[0], -1)) is None
