"""Recon at work on real images: every stage of the chain, through files, as anybody would type it.

    python demo/run.py FOLDER

Profiles a small network on the part of Multi-Fashion+MNIST that ships with Recon, ranks its layers, splits a
checkpoint, verifies it, and runs the branched network.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "sample_configs" / "multi_fashion_mnist_small.yaml"
TOP_K = 6


def main(folder: Path) -> None:
    """Run the chain; its files are left in `folder`."""
    # PyTorch warns about a missing numpy, which nothing here needs.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    folder.mkdir(parents=True, exist_ok=True)
    model, scores, ranking = folder / "model.safetensors", folder / "scores.json", folder / "ranking.json"
    branched = folder / "branched.safetensors"
    save_fresh_model(model)
    recon("profile", CONFIG, "--checkpoint", model, "-o", scores, "--force")
    recon("rank", scores, "-S", "-0.1", "-o", ranking, "--force")
    stages = []
    for stage in (2, 4):
        stages.append(folder / f"ranking.stage{stage}.json")
        recon("rank", scores, "-S", "-0.1", "--stage", stage, "-o", stages[-1], "--force", "--quiet")
    recon("compare-rankings", ranking, *stages)
    recon("split", model, "--ranking", ranking, "--top-k", TOP_K, "-o", branched, "--force")
    recon("verify", branched, "--source", model)
    check_branched(branched)
    summarise(folder, ranking, branched)


def recon(*arguments: object) -> None:
    """Show a command as it would be typed, and run it."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ recon {' '.join(words)}", flush=True)
    ended = subprocess.run([sys.executable, "-m", "recon_cli", *words], check=False)
    if ended.returncode:
        sys.exit(ended.returncode)


def save_fresh_model(path: Path) -> None:
    """Write the network's first weights, as a user's own checkpoint would lie there."""
    import torch

    from recon_cli.checkpoints.saving import save_state_dict
    from recon_cli.zoo import small_resnet

    torch.manual_seed(0)
    save_state_dict(small_resnet().state_dict(), path, overwrite=True)


def check_branched(branched: Path) -> None:
    """Run the branched network on the test images, and train it one step per task."""
    import torch
    from torch.nn import functional as F

    import recon_cli
    from recon_cli.checkpoints.state_dict import load_into
    from recon_cli.datasets import small_multi_fashion_mnist
    from recon_cli.zoo import small_resnet

    print("\n$ python   # the branched network, on the 1,000 test images")
    data = small_multi_fashion_mnist(train=False)
    images = data.images.unsqueeze(1).float() / 255
    shared = small_resnet()
    load_into(shared, branched.with_name("model.safetensors"))
    network = recon_cli.branch(small_resnet(), branched)
    load_into(network, branched)
    with torch.no_grad():
        before, after = shared.eval()(images), network.eval()(images)
    for task in network.task_names:
        if not torch.equal(before[task], after[task]):
            sys.exit(f"{task}: the outputs differ from the shared network's")
        print(f"{task}: outputs equal the shared network's bit for bit")
    network.train()
    for task in network.task_names:
        network.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(images[:64])[task], data.labels[task][:64])
        torch.autograd.backward(loss)
        reached = {
            name.split(".tasks.")[1].split(".")[0]
            for name, parameter in network.named_parameters()
            if ".tasks." in name and parameter.grad is not None
        }
        print(f"{task}: its loss reaches the branches of {', '.join(sorted(reached))} alone")


def summarise(folder: Path, ranking_path: Path, branched: Path) -> None:
    """Say what was found."""
    from recon_cli.artifacts.manifest import Manifest
    from recon_cli.artifacts.ranking import Ranking

    ranking = Ranking.read(ranking_path)
    sizes = Manifest.read(branched.with_suffix(".manifest.json")).sizes
    first, last = ranking.layers[0], ranking.layers[-1]
    before, added = sizes.before.parameters, sizes.after.parameters - sizes.before.parameters
    worst, best = 100 * (first.rate or 0), 100 * (last.rate or 0)
    print(
        f"\nFound: the two tasks share {len(ranking.layers)} layers. Their gradients oppose each other (cosine below "
        f"-0.1)\nmost often in {first.name}, in {worst:.0f}% of {ranking.iterations} iterations, and least often in "
        f"{last.name}, in {best:.0f}%.\nThe {TOP_K} worst layers are task-specific now; that adds {added:,} parameters "
        f"to {before:,} ({100 * added / before:.2f}%).\nFiles: {folder.resolve()}\n"
        "  scores.json  ranking.json  model.safetensors  branched.safetensors  branched.manifest.json"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo_results"))
