"""IDX files, and the data set made from them."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import torch

from recon_cli.datasets import multi_fashion_mnist, small_multi_fashion_mnist
from recon_cli.datasets.idx import read_idx, write_idx
from recon_cli.datasets.multi_fashion_mnist import overlay
from recon_cli.errors import ReconError

needs_data = pytest.mark.skipif("RECON_DATA" not in os.environ, reason="RECON_DATA names no folder with the full data")


def write_sets(root: Path, number: int = 5) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("fashion-mnist", "mnist"):
        (root / name).mkdir(parents=True)
        for part in ("train", "t10k"):
            pixels = torch.randint(256, (number, 28, 28), generator=generator, dtype=torch.uint8)
            labels = torch.randint(10, (number,), generator=generator, dtype=torch.uint8)
            write_idx(root / name / f"{part}-images-idx3-ubyte.gz", pixels)
            write_idx(root / name / f"{part}-labels-idx1-ubyte.gz", labels)


def test_idx_is_read_literally_compressed_or_plain(tmp_path):
    literal = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])
    (tmp_path / "plain").write_bytes(literal)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(literal))
    for name in ("plain", "plain.gz", "packed", "packed.gz"):
        assert read_idx(tmp_path / name, 2).tolist() == [[1, 2, 3], [4, 5, 255]]
    write_idx(tmp_path / "again.gz", torch.tensor([[1, 2, 3], [4, 5, 255]], dtype=torch.uint8))
    assert gzip.decompress((tmp_path / "again.gz").read_bytes()) == literal


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not an IDX file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", "is not an IDX file of unsigned bytes"),
        (b"\x00\x00\x08\x02\x00\x00\x00\x01\x00\x00\x00\x01\x00", "has 2 dimensions; 1 were expected"),
        (b"\x00\x00\x08\x01\x00\x00", "ends within its header"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05ab", "is truncated: it holds 2 bytes of data, its header says 5"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x01ab", "is too long"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x00", "is empty"),
        (gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05abcde", mtime=0)[:-9], "its compressed data ends early"),
        (gzip.compress(b"abc", mtime=0)[:10] + b"\xff\xff\xff", "is damaged"),
    ],
)
def test_files_that_are_no_idx_are_refused(tmp_path, data, words):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ReconError, match=words) as caught:
        read_idx(tmp_path / "x", 1)
    assert str(tmp_path / "x") in caught.value.message


def test_the_item_stands_upper_left_the_digit_lower_right_the_brighter_pixel_shows():
    items, digits = torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1, 28, 28, dtype=torch.uint8)
    items[0, 0, 0], items[0, 27, 27], items[0, 20, 20] = 1, 2, 30
    digits[0, 0, 0], digits[0, 27, 27], digits[0, 12, 12] = 3, 4, 20
    image = overlay(items, digits)[0]
    assert image.shape == (36, 36)
    assert (image[0, 0], image[27, 27], image[8, 8], image[35, 35]) == (1, 2, 3, 4)
    assert image[20, 20] == 30, "of two overlapping pixels the brighter one"
    assert image.count_nonzero() == 5


def test_every_item_and_digit_is_used_twice_and_the_seed_decides_the_pairs(tmp_path):
    write_sets(tmp_path, 50)
    one, again, other = (multi_fashion_mnist(str(tmp_path), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)
    assert len(one) == 100
    for task, folder in (("fashion", "fashion-mnist"), ("mnist", "mnist")):
        labels = read_idx(tmp_path / folder / "train-labels-idx1-ubyte.gz", 1)
        assert one.labels[task].bincount(minlength=10).tolist() == (2 * labels.bincount(minlength=10)).tolist()
    assert len(multi_fashion_mnist(str(tmp_path), train=False)) == 100


def test_missing_truncated_and_mismatched_files_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("RECON_DATA", raising=False)
    with pytest.raises(ReconError, match="not known where FashionMNIST and MNIST lie"):
        multi_fashion_mnist()
    with pytest.raises(ReconError, match="there is no IDX file .*fashion-mnist/train-images"):
        multi_fashion_mnist(str(tmp_path / "none"))
    write_sets(tmp_path)
    labels = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    good = labels.read_bytes()
    labels.write_bytes(good[:-4])
    with pytest.raises(ReconError, match="mnist/train-labels"):
        multi_fashion_mnist(str(tmp_path))
    write_idx(labels, torch.zeros(4, dtype=torch.uint8))
    with pytest.raises(ReconError, match="holds 5 images, but .* 4 labels"):
        multi_fashion_mnist(str(tmp_path))
    write_idx(labels, torch.full((5,), 77, dtype=torch.uint8))
    with pytest.raises(ReconError, match="holds the label 77"):
        multi_fashion_mnist(str(tmp_path))
    write_idx(labels, torch.zeros(6, dtype=torch.uint8))
    write_idx(tmp_path / "mnist" / "train-images-idx3-ubyte.gz", torch.zeros(6, 28, 28, dtype=torch.uint8))
    with pytest.raises(ReconError, match="5 items and 6 digits"):
        multi_fashion_mnist(str(tmp_path))


def test_the_data_that_ships_is_complete():
    for train, size in ((True, 4000), (False, 1000)):
        data = small_multi_fashion_mnist(train=train)
        assert len(data) == size
        image, labels = data[3]
        assert (image.shape, image.dtype) == ((1, 36, 36), torch.float32)
        assert 0 <= image.min() < image.max() <= 1
        assert all(data.labels[task].unique().tolist() == list(range(10)) for task in ("fashion", "mnist"))
        assert labels["mnist"] == data.labels["mnist"][3]


@needs_data
def test_the_full_set_is_built_and_the_data_that_ships_is_its_beginning():
    for train, size, part in ((True, 120_000, 4000), (False, 20_000, 1000)):
        full, small = multi_fashion_mnist(train=train), small_multi_fashion_mnist(train=train)
        assert len(full) == size
        assert torch.equal(full.images[:part], small.images)
        assert all(torch.equal(full.labels[task][:part], small.labels[task]) for task in small.labels)
