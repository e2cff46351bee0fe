"""A small PASCAL-Context in the folders of `PASCAL_MT`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

HEIGHT, WIDTH = 8, 16
NAMES = ["2008_000002", "2010_000007", "2008_000009"]
FLOOR, WALL, SKY, UNKNOWN = 158, 440, 360, 0


def structs(records: list[dict[str, Any]], fields: list[str]) -> np.ndarray:
    """A row of MATLAB's structs."""
    row = np.zeros((1, len(records)), dtype=[(field, object) for field in fields])
    for at, record in enumerate(records):
        for field in fields:
            row[0, at][field] = record[field]
    return row


def box(*place: slice) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[place] = 1
    return mask


def write_parts(path: Path, objects: list[tuple[int, Mapping[str, np.ndarray]]]) -> None:
    """An annotation of PASCAL-Part: objects' classes, and their parts' masks."""
    records = [
        {
            "class": "person" if number == 15 else "other",
            "class_ind": number,
            "mask": box(slice(None)),
            "parts": structs([{"part_name": name, "mask": mask} for name, mask in parts.items()], ["part_name", "mask"])
            if parts
            else np.zeros((0, 0)),
        }
        for number, parts in objects
    ]
    savemat(path, {"anno": {"imname": path.stem, "objects": structs(records, ["class", "class_ind", "mask", "parts"])}})


def arrays(name: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(NAMES.index(name))
    return {
        "image": random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
        "segmentation": random.choice([0, 1, 15, 20, 255], (HEIGHT, WIDTH)).astype(np.uint8),
        "saliency": random.choice([0, 127, 128, 255], (HEIGHT, WIDTH)).astype(np.uint8),
        "normal": random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
        "context": random.choice([FLOOR, WALL, SKY, UNKNOWN], (HEIGHT, WIDTH)).astype(np.uint16),
    }


def write_image(path: Path, pixels: np.ndarray, *, palette: bool = False) -> None:
    image = Image.fromarray(pixels)
    if palette:
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([value for index in range(256) for value in (255 - index, 7, index)])
    image.save(path, format="PNG")


def write_folder(root: Path) -> None:
    """Three images for training, of which the last, without a person, is also there for validation."""
    for folder in (
        "ImageSets/Context",
        "JPEGImages",
        "semseg/VOC12",
        "semseg/pascal-context",
        "human_parts",
        "sal_distill",
        "normals_distill",
        "pascal-context/trainval",
    ):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Context/train.txt").write_text("\n".join(NAMES) + "\n")
    (root / "ImageSets/Context/val.txt").write_text(NAMES[2] + "\n")
    for name in NAMES:
        values = arrays(name)
        write_image(root / "JPEGImages" / f"{name}.jpg", values["image"])
        in_voc = name == NAMES[0]
        folder = root / "semseg" / ("VOC12" if in_voc else "pascal-context")
        write_image(folder / f"{name}.png", values["segmentation"], palette=in_voc)
        write_image(root / "sal_distill" / f"{name}.png", values["saliency"])
        write_image(root / "normals_distill" / f"{name}.png", values["normal"])
        savemat(root / "pascal-context/trainval" / f"{name}.mat", {"LabelMap": values["context"]})
    write_parts(
        root / "human_parts" / f"{NAMES[0]}.mat",
        [
            (13, {"head": box(slice(0, 8))}),
            (15, {"head": box(slice(0, 2), slice(0, 4)), "torso": box(slice(2, 4)), "rfoot": box(slice(7, 8))}),
            (15, {"lhand": box(slice(3, 4), slice(8, 9)), "luarm": box(slice(4, 5)), "ruleg": box(slice(5, 6))}),
        ],
    )
    write_parts(root / "human_parts" / f"{NAMES[1]}.mat", [(15, {}), (7, {"wheel": box(slice(0, 8))})])
    write_parts(root / "human_parts" / f"{NAMES[2]}.mat", [])
