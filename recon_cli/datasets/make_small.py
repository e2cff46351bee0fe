"""Makes the data that ships with Recon from the full sets: `python -m recon_cli.datasets.make_small ROOT`."""

from __future__ import annotations

import sys

import torch

from recon_cli.datasets.idx import write_idx
from recon_cli.datasets.multi_fashion_mnist import SMALL_DATA, TASKS, multi_fashion_mnist

SIZES = {"train": 4000, "t10k": 1000}


def main(root: str) -> None:
    """Write the first images of seed 0, and their labels."""
    SMALL_DATA.mkdir(exist_ok=True)
    for part, size in SIZES.items():
        data = multi_fashion_mnist(root, train=part == "train")
        write_idx(SMALL_DATA / f"{part}-images-idx3-ubyte.gz", data.images[:size])
        for task in TASKS:
            write_idx(SMALL_DATA / f"{part}-{task}-labels-idx1-ubyte.gz", data.labels[task][:size].to(torch.uint8))


if __name__ == "__main__":
    main(sys.argv[1])
