# SPDX-License-Identifier: Apache-2.0
"""Archives for tests, with entries that no packing program would write."""

import io
import tarfile
import zipfile

LINK, SAME, FOLDER, FIFO, DEVICE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE


def tar(path, *entries, mode="w"):
    """An archive of (name, content) or (name, type, target)."""
    with tarfile.open(path, mode) as archive:
        for name, content, *target in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes) and not target and content not in (FOLDER, FIFO, DEVICE):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
                continue
            info.type, info.linkname = content, target[0] if target else ""
            archive.addfile(info)
    return path


def zipped(path, *entries):
    """A zip of (name, content) or (name, content, mode)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, *mode in entries:
            info = zipfile.ZipInfo()
            info.filename = name  # as it is: the constructor would make it harmless
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, (mode[0] if mode else 0o644) << 16
            with archive.open(info, "w") as file:
                file.write(content.encode() if isinstance(content, str) else content)
    return path


def found(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
