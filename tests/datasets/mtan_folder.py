"""A small data set in the folders of MTAN, as CityScapes and as NYUv2 at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 8, 16


def arrays(number: int) -> dict[str, np.ndarray]:
    """An image's arrays, of the types that the published files have."""
    random = np.random.default_rng(number)
    normals = random.normal(size=(HEIGHT, WIDTH, 3))
    return {
        "image": random.random((HEIGHT, WIDTH, 3)),
        "label": random.integers(-1, 13, (HEIGHT, WIDTH)).astype(np.float64),
        "label_7": random.integers(-1, 7, (HEIGHT, WIDTH)).astype(np.int8),
        "depth": random.random((HEIGHT, WIDTH, 1)).astype(np.float32),
        "normal": normals / np.linalg.norm(normals, axis=2, keepdims=True),
    }


def write_folder(root: Path) -> None:
    """Twelve images for training and two for validation, with all labels of both data sets."""
    for split, size in (("train", 12), ("val", 2)):
        for number in range(size):
            for folder, values in arrays(number + 100 * (split == "val")).items():
                (root / split / folder).mkdir(parents=True, exist_ok=True)
                np.save(root / split / folder / f"{number}.npy", values)
