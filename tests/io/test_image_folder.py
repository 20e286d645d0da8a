"""Folders of images: which are taken, what is done to them, errors that name the file."""

import numpy as np
import pytest
from PIL import Image

from protocaffe.errors import DataError, FileFormatError, ParameterError, ShapeError
from protocaffe.io.image_folder import Preprocessing, list_images, read_images


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def test_images_are_found_in_folders_below_and_other_files_are_not(tmp_path):
    for name in ("b.png", "a.JPG", "deep/er/c.bmp"):
        write(tmp_path / name, np.zeros((2, 2, 3)))
    (tmp_path / "labels.txt").write_text("a.JPG 1\n")
    (tmp_path / "d.png").mkdir()
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == ["a.JPG", "b.png", "deep/er/c.bmp"]


def test_a_limit_draws_the_same_images_every_time(tmp_path):
    for i in range(30):
        write(tmp_path / f"{i:02d}.png", np.zeros((1, 1)))
    some = list_images(tmp_path, 10)
    assert len(set(some)) == 10 and some == sorted(some) == list_images(tmp_path, 10)
    assert some != list_images(tmp_path)[:10]
    assert some != list_images(tmp_path, 10, seed=1)
    assert len(list_images(tmp_path, 99)) == 30


def test_steps_come_in_caffes_order(tmp_path):
    path = write(tmp_path / "a.png", [[[10, 20, 30], [40, 50, 60]]])
    steps = Preprocessing(mean=np.array([1, 2, 3]), scale=0.5)
    (got,) = read_images([path], (1, 3, 1, 2), steps)
    np.testing.assert_allclose(got, [[[14.5, 29.5]], [[9, 24]], [[3.5, 18.5]]], rtol=1e-6)  # B, G, R
    (got,) = read_images([path], (1, 3, 1, 2), Preprocessing(swap=(0, 1, 2), raw_scale=1.0))
    np.testing.assert_allclose(got[0], [[10 / 255, 40 / 255]], rtol=1e-6)


def test_gray_inputs_and_centre_cuts(tmp_path):
    pixels = np.arange(36).reshape(6, 6)
    path = write(tmp_path / "a.png", pixels)
    (got,) = read_images([path], (1, 1, 2, 4), Preprocessing(resize=(6, 6)))
    np.testing.assert_allclose(got[0], pixels[2:4, 1:5], rtol=1e-5)
    assert read_images([path], (1, 3, 5, 9), Preprocessing()).shape == (1, 3, 5, 9)


def test_errors(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        list_images(tmp_path)
    with pytest.raises(FileNotFoundError):
        list_images(tmp_path / "nowhere")
    good, bad = write(tmp_path / "a.png", np.zeros((4, 4))), tmp_path / "b.png"
    bad.write_bytes(good.read_bytes()[:40])
    with pytest.raises(FileFormatError, match=r'b\.png" is no image'):
        read_images([good, bad], (1, 1, 4, 4), Preprocessing())
    with pytest.raises(ParameterError, match=r"cannot cut 4 x 4 out of images resized to \(3, 8\)"):
        read_images([good], (1, 1, 4, 4), Preprocessing(resize=(3, 8)))
    with pytest.raises(ShapeError, match="images have 1 or 3 channels"):
        read_images([good], (1, 2, 4, 4), Preprocessing())
    with pytest.raises(ShapeError, match="the mean"):
        read_images([good], (1, 1, 4, 4), Preprocessing(mean=np.zeros(3)))
