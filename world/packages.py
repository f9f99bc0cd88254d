"""Packages of pictures: pinned, checked, fetched by npm, unpacked once."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import UserError


@dataclass(frozen=True)
class Package:
    """A package of the npm registry, with the checksum that the registry lists for it."""

    name: str
    version: str
    sha512: str  # base64


def fetch(package: Package, folder: Path) -> Path:
    """The package's files, unpacked in `folder`; downloaded with npm unless they are there already.

    Raises UserError without npm, when the download fails, and when it is not the pinned one.
    """
    place = folder / f"{package.name.rpartition('/')[2]}-{package.version}"
    if place.is_dir():
        return place / "package"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm was not found, and {package.name} is fetched with it; install Node.js with npm.")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = f"{package.name}@{package.version}"
    command = [npm, "pack", wanted, "--json", "--pack-destination", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"npm could not fetch {wanted} into {folder} ({reason}); check the network and try again.")
    archive = folder / Path(json.loads(result.stdout)[0]["filename"]).name
    data = archive.read_bytes()
    archive.unlink()
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != package.sha512:
        raise UserError(f"{wanted} has the checksum {found}, expected {package.sha512}; do not use this download.")
    part = place.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in the first 3.10 releases
        tar.extractall(part)
    part.rename(place)
    return place / "package"
