"""CityScapes and NYUv2 in the folders of MTAN: what is read, what is refused, and what augmentation does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from recon_cli.datasets import cityscapes, nyuv2
from recon_cli.datasets.scale_and_flip import SCALES, enlarged, flipped, scale_and_flip
from recon_cli.errors import ReconError
from tests.datasets.mtan_folder import HEIGHT, WIDTH, arrays, write_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_folder(tmp_path)
    return tmp_path


def test_values_are_read_in_the_order_of_the_numbers(root):
    data = nyuv2(str(root))
    assert len(data) == 12
    for number in (0, 2, 10):
        image, labels = data[number]
        expected = arrays(number)
        assert list(labels) == ["segmentation", "depth", "normal"]
        assert (image.dtype, image.shape) == (torch.float32, (3, HEIGHT, WIDTH))
        assert (labels["segmentation"].dtype, labels["segmentation"].shape) == (torch.int64, (HEIGHT, WIDTH))
        assert image[1, 5, 7] == np.float32(expected["image"][5, 7, 1])
        np.testing.assert_array_equal(image, expected["image"].transpose(2, 0, 1).astype(np.float32))
        np.testing.assert_array_equal(labels["segmentation"], expected["label"])
        np.testing.assert_array_equal(labels["depth"], expected["depth"].transpose(2, 0, 1))
        np.testing.assert_array_equal(labels["normal"], expected["normal"].transpose(2, 0, 1).astype(np.float32))


def test_cityscapes_has_seven_classes_and_no_normals(root):
    data = cityscapes(str(root), "val")
    assert len(data) == 2
    _, labels = data[1]
    assert list(labels) == ["segmentation", "depth"]
    np.testing.assert_array_equal(labels["segmentation"], arrays(101)["label_7"])


def test_what_else_lies_in_a_folder_does_not_count(root):
    for name in ("._0.npy", "list.txt", "x1.npy"):
        (root / "train" / "image" / name).write_bytes(b"")
    assert len(nyuv2(str(root))) == 12


def test_batches_of_two_workers_are_those_of_none(root):
    alone, workers = (DataLoader(nyuv2(str(root)), batch_size=4, num_workers=number) for number in (0, 2))
    for (image, labels), (other, others) in zip(alone, workers, strict=True):
        assert image.shape == (4, 3, HEIGHT, WIDTH)
        assert torch.equal(image, other)
        assert all(torch.equal(labels[name], others[name]) for name in labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_follows_the_seed(root, workers):
    def images(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        loader = DataLoader(nyuv2(str(root), augment=True), batch_size=3, num_workers=workers)
        return torch.cat([image for image, _ in loader])

    first = images(1)
    assert torch.equal(first, images(1))
    assert not torch.equal(first, images(2))


@pytest.mark.parametrize(
    ("folder", "number", "values", "words"),
    [
        ("image", 3, np.zeros((3, HEIGHT, WIDTH)), r"image/3.npy` is of shape \(3, 8, 16\); \[H, W, 3\] was expected"),
        ("image", 3, np.zeros((HEIGHT, WIDTH)), r"image/3.npy` is of shape \(8, 16\)"),
        ("label", 3, np.zeros((HEIGHT, WIDTH, 1)), r"label/3.npy` is of shape \(8, 16, 1\); \[H, W\] was expected"),
        ("label", 3, np.full((HEIGHT, WIDTH), 13), "label/3.npy` holds the class 13; -1 to 12 were expected"),
        ("label", 3, np.full((HEIGHT, WIDTH), -2), "holds the class -2"),
        ("label", 3, np.full((HEIGHT, WIDTH), 0.5), "holds the class 0.5"),
        ("label", 3, np.full((HEIGHT, WIDTH), np.nan), "holds the class nan"),
        ("label", 3, np.zeros((4, WIDTH)), "label/3.npy` is for 4x16 pixels, but the image has 8x16"),
        ("depth", 3, np.zeros((HEIGHT, WIDTH)), r"depth/3.npy` is of shape \(8, 16\); \[H, W, 1\] was expected"),
        ("depth", 3, np.full((HEIGHT, WIDTH, 1), "x"), "depth/3.npy` holds values of the type `<U1`"),
        ("normal", 3, np.zeros((HEIGHT, 8, 3)), "normal/3.npy` is for 8x8 pixels, but the image has 8x16"),
    ],
)
def test_arrays_of_another_kind_are_refused(root, folder, number, values, words):
    np.save(root / "train" / folder / f"{number}.npy", values)
    data = nyuv2(str(root))
    data[0]
    with pytest.raises(ReconError, match=words):
        data[number]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x80\x04."])
def test_files_that_are_no_arrays_are_refused(root, content):
    (root / "train" / "depth" / "0.npy").write_bytes(content)
    with pytest.raises(ReconError, match="depth/0.npy` is damaged, or not an array of NumPy"):
        nyuv2(str(root))[0]


def test_truncated_arrays_and_arrays_of_objects_are_refused(root):
    path = root / "train" / "depth" / "0.npy"
    path.write_bytes(path.read_bytes()[:-4])
    np.save(root / "train" / "depth" / "1.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    for number in (0, 1):
        with pytest.raises(ReconError, match=f"depth/{number}.npy` is damaged"):
            nyuv2(str(root))[number]


def test_what_is_missing_is_named(root):
    with pytest.raises(ReconError, match="NYUv2 has no split `test`") as caught:
        nyuv2(str(root), "test")
    assert caught.value.hint == "there are `train`, `val`"
    with pytest.raises(ReconError, match="there is no folder `.*elsewhere/train/image`"):
        cityscapes(str(root / "elsewhere"))
    (root / "train" / "depth" / "7.npy").unlink()
    with pytest.raises(ReconError, match="depth` has 11 arrays for 12 images: there is no `.*train/depth/7.npy`"):
        nyuv2(str(root))
    np.save(root / "train" / "depth" / "7.npy", arrays(7)["depth"])
    (root / "train" / "image" / "2.npy").unlink()
    (root / "train" / "image" / "11.npy").unlink()
    with pytest.raises(ReconError, match="label` has 12 arrays for 10 images: there is no `.*train/image/2.npy`"):
        nyuv2(str(root))
    shutil.rmtree(root / "val" / "normal")
    assert len(cityscapes(str(root), "val")) == 2
    with pytest.raises(ReconError, match="there is no folder `.*val/normal`"):
        nyuv2(str(root), "val")
    for path in (root / "val" / "image").iterdir():
        path.unlink()
    with pytest.raises(ReconError, match="val/image` has no file `0.npy`"):
        cityscapes(str(root), "val")


def test_a_library_that_is_missing_is_named(root, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    with pytest.raises(ReconError, match="this data is read with `numpy`, which cannot be imported") as caught:
        nyuv2(str(root))[0]
    assert "pip install 'recon_cli[data]'" in caught.value.hint


def located(height: int, width: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """An image and labels whose values say where a pixel is."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows, columns, torch.ones_like(rows)]).float()
    return place, {
        "segmentation": rows * width + columns,
        "depth": (rows * width + columns)[None].float(),
        "normal": place.clone(),
    }


@given(st.data(), st.integers(4, 40), st.integers(4, 40), st.sampled_from(SCALES))
def test_crops_keep_labels_over_their_pixels(data, height, width, scale):
    image, labels = located(height, width)
    rows, columns = int(height / scale), int(width / scale)
    top, left = (data.draw(st.integers(0, whole - part)) for whole, part in ((height, rows), (width, columns)))
    new_image, new = enlarged(image, labels, scale, top, left)
    assert new_image.shape == image.shape
    assert {name: (each.shape, each.dtype) for name, each in new.items()} == {
        name: (each.shape, each.dtype) for name, each in labels.items()
    }
    seen = torch.stack([new["segmentation"] // width, new["segmentation"] % width])
    # Linear and nearest enlargement count a pixel's place from its centre and from its corner.
    assert (new_image[:2] - seen).abs().max() < 1 + 1e-4
    torch.testing.assert_close(new["normal"], new_image)
    torch.testing.assert_close(new["depth"][0] * scale, new["segmentation"].float())
    corners = torch.tensor([[top, left], [top + rows - 1, left + columns - 1]]).float()
    torch.testing.assert_close(torch.stack([new_image[:2, 0, 0], new_image[:2, -1, -1]]), corners)
    assert seen[0].unique().tolist() == list(range(top, top + rows))
    assert seen[1].unique().tolist() == list(range(left, left + columns))


def test_a_mirror_exchanges_left_and_right_in_everything_and_turns_x():
    image, labels = located(4, 6)
    mirrored, new = flipped(image, labels)
    assert mirrored[1, 2].tolist() == [5, 4, 3, 2, 1, 0]
    assert new["segmentation"][0].tolist() == [5, 4, 3, 2, 1, 0]
    assert new["depth"][0, 0].tolist() == [5, 4, 3, 2, 1, 0]
    assert torch.equal(new["normal"], mirrored * torch.tensor([-1.0, 1, 1]).view(3, 1, 1))
    again, labels_again = flipped(mirrored, new)
    assert torch.equal(again, image)
    assert all(torch.equal(labels_again[name], labels[name]) for name in labels)


def test_scales_places_and_sides_are_drawn_evenly():
    torch.manual_seed(0)
    counts = dict.fromkeys(SCALES, 0)
    mirrored, corners, draws = 0, set(), 1500
    image, labels = located(6, 6)
    for _ in range(draws):
        new_image, new = scale_and_flip(image, labels)
        scale = min(SCALES, key=lambda each: abs((new_image[0, -1, 0] - new_image[0, 0, 0]) + 1 - int(6 / each)))
        counts[scale] += 1
        is_mirrored = new_image[1, 0, 0] > new_image[1, 0, -1]
        mirrored += int(is_mirrored)
        if scale == 1.5:
            corners.add((int(new_image[0, 0, 0]), int(new_image[1, 0].min())))
        assert (new["normal"][2] == 1).all()
    deviation = 4 * (draws / 4) ** 0.5
    assert abs(mirrored - draws / 2) < deviation
    assert all(abs(count - draws / 3) < deviation for count in counts.values())
    assert corners == {(top, left) for top in range(3) for left in range(3)}
