"""PASCAL-Context in the folders of `PASCAL_MT`: what is read, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch.utils.data import DataLoader

from recon_cli.datasets import pascal_context
from recon_cli.errors import ReconError
from tests.datasets.pascal_context_folder import (
    FLOOR,
    HEIGHT,
    NAMES,
    WALL,
    WIDTH,
    arrays,
    box,
    write_folder,
    write_image,
    write_parts,
)

TOP, LEFT = 252, 248
INSIDE = (slice(TOP, TOP + HEIGHT), slice(LEFT, LEFT + WIDTH))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_folder(tmp_path)
    return tmp_path


@pytest.mark.parametrize("index", [0, 1, 2])
def test_pixels_stand_in_the_middle_and_all_around_them_is_void(root, index):
    image, labels = pascal_context(str(root))[index]
    expected = arrays(NAMES[index])
    assert {name: (value.dtype, tuple(value.shape)) for name, value in {"image": image, **labels}.items()} == {
        "image": (torch.float32, (3, 512, 512)),
        "segmentation": (torch.int64, (512, 512)),
        "human_parts": (torch.int64, (512, 512)),
        "saliency": (torch.float32, (1, 512, 512)),
        "normal": (torch.float32, (3, 512, 512)),
    }
    np.testing.assert_allclose(image[(..., *INSIDE)], expected["image"].transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(labels["segmentation"][INSIDE], expected["segmentation"])
    np.testing.assert_array_equal(labels["saliency"][0][INSIDE], expected["saliency"] > 127.5)
    on_things = np.isin(expected["context"], [FLOOR, WALL])
    normals = np.where(on_things, expected["normal"].transpose(2, 0, 1) / 127.5 - 1, 0)
    np.testing.assert_allclose(labels["normal"][(..., *INSIDE)], normals, atol=1e-6)
    outside = torch.ones(512, 512, dtype=torch.bool)
    outside[INSIDE] = False
    for name, void in (("segmentation", 255), ("human_parts", 255), ("saliency", 255), ("normal", 0)):
        assert (labels[name].view(-1, 512, 512)[:, outside] == void).all(), name
    assert (image[:, outside] == 0).all()


def test_parts_of_all_persons_become_six_classes(root):
    _, labels = pascal_context(str(root))[0]
    expected = np.zeros((HEIGHT, WIDTH))
    expected[0:2, 0:4] = 1
    expected[2:4] = 2
    expected[4] = 3
    expected[3, 8] = 4
    expected[5] = 5
    expected[7] = 6
    np.testing.assert_array_equal(labels["human_parts"][INSIDE], expected)


@pytest.mark.parametrize("index", [1, 2])
def test_an_image_without_parts_of_a_body_has_no_label_for_them(root, index):
    _, labels = pascal_context(str(root))[index]
    assert (labels["human_parts"] == 255).all()


def test_the_classes_with_normals_are_those_that_nyuv2_knows():
    from recon_cli.datasets.pascal_context import WITH_NORMALS

    text = WITH_NORMALS.read_text()
    assert '"tvmonitor": 427' in text
    assert '"sky"' not in text
    assert '"grass"' not in text


def test_batches_of_two_workers_are_those_of_none(root):
    alone, workers = (DataLoader(pascal_context(str(root)), batch_size=3, num_workers=number) for number in (0, 2))
    (image, labels), (other, others) = next(iter(alone)), next(iter(workers))
    assert torch.equal(image, other)
    assert all(torch.equal(labels[name], others[name]) for name in labels)


@pytest.mark.parametrize(
    ("folder", "pixels", "words"),
    [
        ("semseg/VOC12", np.zeros((4, WIDTH), np.uint8), "png` is for 4x16 pixels, but the image has 8x16"),
        ("semseg/VOC12", np.full((HEIGHT, WIDTH), 21, np.uint8), "holds the class 21; 0 to 20 and 255 were expected"),
        ("semseg/VOC12", np.zeros((HEIGHT, WIDTH, 3), np.uint8), "is an image of the kind `RGB`; one byte for each"),
        ("sal_distill", np.zeros((HEIGHT, 8), np.uint8), "sal_distill/.*png` is for 8x8 pixels"),
        ("normals_distill", np.zeros((4, WIDTH, 3), np.uint8), "normals_distill/.*png` is for 4x16 pixels"),
        ("JPEGImages", np.zeros((4, 513, 3), np.uint8), "jpg` has 4x513 pixels; at most 512x512 were expected"),
    ],
)
def test_images_of_another_kind_are_refused(root, folder, pixels, words):
    ending = ".jpg" if folder == "JPEGImages" else ".png"
    write_image(root / folder / f"{NAMES[0]}{ending}", pixels)
    with pytest.raises(ReconError, match=words):
        pascal_context(str(root))[0]


def test_annotations_of_another_kind_are_refused(root):
    path = root / "human_parts" / f"{NAMES[0]}.mat"
    write_parts(path, [(15, {"head": box(slice(None))[:4]})])
    with pytest.raises(ReconError, match="human_parts/.* is for 4x16 pixels, but the image has 8x16"):
        pascal_context(str(root))[0]
    write_parts(path, [(15, {"wing": box(slice(None))})])
    with pytest.raises(ReconError, match="human_parts/.* names a part `wing`"):
        pascal_context(str(root))[0]
    for content in ({"other": 1}, {"anno": 1}, {"anno": {"objects": 1}}):
        savemat(path, content)
        with pytest.raises(ReconError, match="human_parts/.* is no annotation of PASCAL-Part"):
            pascal_context(str(root))[0]
    path.write_bytes(b"x" * 500)
    with pytest.raises(ReconError, match="human_parts/.* is damaged, or not a file of MATLAB"):
        pascal_context(str(root))[0]
    classes = root / "pascal-context/trainval" / f"{NAMES[1]}.mat"
    savemat(classes, {"LabelMap": np.zeros((4, 4))})
    with pytest.raises(ReconError, match="trainval/.* is for 4x4 pixels"):
        pascal_context(str(root))[1]
    savemat(classes, {"Labels": np.zeros((HEIGHT, WIDTH))})
    with pytest.raises(ReconError, match="trainval/.* is no annotation of PASCAL-Context: it has no table `LabelMap`"):
        pascal_context(str(root))[1]


def test_what_is_missing_is_named(root):
    with pytest.raises(ReconError, match="PASCAL-Context has no split `test`"):
        pascal_context(str(root), "test")
    with pytest.raises(ReconError, match="cannot read `.*elsewhere/ImageSets/Context/train.txt`: No such file"):
        pascal_context(str(root / "elsewhere"))
    for path in (
        f"JPEGImages/{NAMES[1]}.jpg",
        f"human_parts/{NAMES[1]}.mat",
        f"sal_distill/{NAMES[1]}.png",
        f"normals_distill/{NAMES[1]}.png",
        f"pascal-context/trainval/{NAMES[1]}.mat",
        f"semseg/pascal-context/{NAMES[1]}.png",
    ):
        (root / path).rename(root / "away")
        with pytest.raises(ReconError, match=f"train.txt` names `{NAMES[1]}`, but there is no `.*{path}`"):
            pascal_context(str(root))
        assert len(pascal_context(str(root), "val")) == 1
        (root / "away").rename(root / path)
    (root / "ImageSets/Context/val.txt").write_text("\n")
    with pytest.raises(ReconError, match="val.txt` is empty: it names no image"):
        pascal_context(str(root), "val")
    shutil.rmtree(root / "sal_distill")
    with pytest.raises(ReconError, match="there is no folder `.*sal_distill`"):
        pascal_context(str(root))
