"""CelebA: images, attributes and partitions, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from recon_cli.datasets import celeba
from recon_cli.errors import ReconError
from recon_cli.zoo.resnet import CELEBA_ATTRIBUTES
from tests.datasets.celeba_folder import attribute_lines, label, write_folder, write_lines


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_folder(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("split", "numbers"), [("train", [1, 2, 4]), ("val", [3, 6]), ("test", [5])])
def test_each_split_has_its_images_and_their_labels(root, split, numbers):
    data = celeba(str(root), split)
    assert len(data) == len(numbers)
    assert data.attributes == tuple(CELEBA_ATTRIBUTES)
    for index, number in enumerate(numbers):
        image, labels = data[index]
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        assert image.dtype == torch.float32
        np.testing.assert_allclose(image, pixels.transpose(2, 0, 1) / 255, rtol=1e-6)
        assert {name: value.item() for name, value in labels.items()} == {
            name: float(label(number, attribute) == 1) for attribute, name in enumerate(CELEBA_ATTRIBUTES)
        }
        assert all((value.dtype, value.shape) == (torch.float32, ()) for value in labels.values())


def test_images_are_resized_without_aliasing(root):
    stripes = np.zeros((218, 178, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    stripes[109:, :, 2] = 255
    Image.fromarray(stripes).save(root / "img_align_celeba" / "000001.jpg", quality=100, subsampling=0)
    image, _ = celeba(str(root))[0]
    assert image.shape == (3, 64, 64)
    # A column of the small image shows 2.8 columns of the large one.
    assert (image[:2] - 100 / 255).abs().max() < 0.12
    assert image[2, 40:].min() > 0.95
    assert (image[2, :24] - 100 / 255).abs().max() < 0.12


def test_folders_may_lie_as_they_are_handed_on(root):
    expected = celeba(str(root))[1][0]
    for folder, name in (
        ("Img", "img_align_celeba"),
        ("Anno", "list_attr_celeba.txt"),
        ("Eval", "list_eval_partition.txt"),
    ):
        (root / folder).mkdir()
        (root / name).rename(root / folder / name)
    assert torch.equal(celeba(str(root))[1][0], expected)


def test_batches_of_two_workers_are_those_of_none(root):
    alone, workers = (DataLoader(celeba(str(root)), batch_size=2, num_workers=number) for number in (0, 2))
    for (image, labels), (other, others) in zip(alone, workers, strict=True):
        assert torch.equal(image, other)
        assert labels["Bags_Under_Eyes"].dim() == 1
        assert all(torch.equal(labels[name], others[name]) for name in CELEBA_ATTRIBUTES)


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        (0, "six", "does not begin with the number of images and the names of 40 attributes"),
        (0, "7", "list_attr_celeba.txt` is for 6 images, but its first line says 7"),
        (1, " ".join(CELEBA_ATTRIBUTES[:39]), "the names of 40 attributes"),
        (1, " ".join(CELEBA_ATTRIBUTES[:39] + CELEBA_ATTRIBUTES[:1]), "the names of 40 attributes"),
        (4, "000003.jpg " + "1 " * 39, "line 5 of .*list_attr_celeba.txt` has 39 values; 40 were expected"),
        (4, "000003.jpg " + "1 " * 41, "has 41 values"),
        (4, "", "line 5 of .* has 0 values"),
        (4, "000003.jpg " + "1 " * 39 + "0", "line 5 of .* has the value `0`, not -1 or 1"),
        (4, "000009.jpg " + "1 " * 40, "names `000003.jpg`, of which `.*list_attr_celeba.txt` says nothing"),
    ],
)
def test_what_is_wrong_with_the_attributes_is_named(root, line, text, words):
    lines = attribute_lines()
    lines[line] = text
    write_lines(root / "list_attr_celeba.txt", lines)
    with pytest.raises(ReconError, match=words):
        celeba(str(root), "val")


@pytest.mark.parametrize("line", ["000003.jpg 3", "000003.jpg", "000003.jpg 0 1", ""])
def test_what_is_wrong_with_the_partitions_is_named(root, line):
    write_lines(root / "list_eval_partition.txt", ["000001.jpg 0", line])
    with pytest.raises(
        ReconError, match="line 2 of .*list_eval_partition.txt` is not the name of an image and 0, 1 or"
    ):
        celeba(str(root))


def test_missing_and_damaged_files_are_named(root):
    with pytest.raises(ReconError, match="CelebA has no split `validation`"):
        celeba(str(root), "validation")
    path = root / "img_align_celeba" / "000002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ReconError, match="000002.jpg` is damaged"):
        celeba(str(root))[1]
    path.write_text("a page that says that the image has moved")
    with pytest.raises(ReconError, match="000002.jpg` is damaged, or no image"):
        celeba(str(root))[1]
    data = celeba(str(root))
    path.unlink()
    with pytest.raises(ReconError, match="cannot read `.*000002.jpg`: No such file"):
        data[1]
    with pytest.raises(ReconError, match="names `000002.jpg`, but there is no `.*img_align_celeba/000002.jpg`"):
        celeba(str(root))
    write_lines(root / "list_eval_partition.txt", ["000001.jpg 0"])
    with pytest.raises(ReconError, match="list_eval_partition.txt` names no image of the partition 2"):
        celeba(str(root), "test")
    (root / "list_attr_celeba.txt").write_text("")
    with pytest.raises(ReconError, match="does not begin with the number of images"):
        celeba(str(root))
    (root / "list_attr_celeba.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ReconError, match="list_attr_celeba.txt` is damaged: it is no text"):
        celeba(str(root))
    (root / "list_attr_celeba.txt").unlink()
    with pytest.raises(ReconError, match="cannot read `.*list_attr_celeba.txt`: No such file"):
        celeba(str(root))
    with pytest.raises(ReconError, match="cannot read `.*elsewhere/list_eval_partition.txt`"):
        celeba(str(root / "elsewhere"))
