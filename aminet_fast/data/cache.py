"""The decoded faces: one uint8 array, written once, memory-mapped ever after."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

log = logging.getLogger(__name__)

FORMAT = 2
BLOCK = 512  # pictures a checksum
MEMORY_LIMIT = 2 << 30  # the most bytes kept in memory when the cache cannot be written
LEFTOVER_AGE = 86400.0  # seconds; no build takes that long
_HEADER = 128


@dataclass
class Meta:
    """What lies beside the pixels: the names in order, what was left out and why, and block checksums.

    `content` is the SHA-256 of all names and pixels: the same wherever the files lie and whenever they were touched.
    """

    content: str = ""
    names: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    enlarged: int = 0
    parts: dict[str, list[int]] = field(default_factory=dict)  # part name: shape of one picture
    crc: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One candidate: its name and either its pixels by part ("hr", "lr") or the reason why there are none."""

    name: str
    parts: dict[str, np.ndarray]
    reason: str | None = None
    enlarged: bool = False


class FaceStore:
    """uint8 arrays [N, S, S, 3] by part, from a cache folder or from memory.

    Pickles by its folder's name; every process maps the files for itself on first use.
    """

    def __init__(self, meta: Meta, folder: Path | None, arrays: dict[str, np.ndarray] | None = None) -> None:
        self.meta, self.folder = meta, folder
        self._arrays: dict[str, np.ndarray] = arrays or {}

    def part(self, name: str) -> np.ndarray | None:
        if name not in self.meta.parts:
            return None
        if name not in self._arrays:
            assert self.folder is not None
            file = self.folder / f"{name}.npy"
            try:
                self._arrays[name] = np.load(file, mmap_mode="r")
            except (OSError, ValueError, EOFError) as error:
                raise OSError(f"{file} of the face cache cannot be read ({error})") from error
        array = self._arrays[name]
        if self.folder is not None:
            _still_whole(self.folder / f"{name}.npy", array.nbytes)
        return array

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_arrays": {} if self.folder else self._arrays}


def _still_whole(file: Path, pixels: int) -> None:
    """Raise OSError when a mapped file was cut short: reading beyond its end would end the process by SIGBUS.

    A file that was removed meanwhile stays readable.
    """
    try:
        size = os.stat(file).st_size
    except OSError:
        return
    if size < pixels + _HEADER:
        raise OSError(f"{file} of the face cache was cut short while it was in use")


def cache_key(settings: dict[str, object], files: Iterable[tuple[object, ...]]) -> str:
    """SHA-256 over the settings and whatever tells that a candidate is the one that was decoded."""
    digest = hashlib.sha256(json.dumps([FORMAT, settings], sort_keys=True).encode())
    for file in files:
        digest.update(json.dumps(file).encode())
    return digest.hexdigest()


def load_store(folder: Path, key: str) -> FaceStore | None:
    """The finished cache of `key` under `folder`, or None when it is missing or damaged (warns)."""
    target = folder / key[:32]
    try:
        raw = json.loads((target / "meta.json").read_text(encoding="utf-8"))
        meta = Meta(**{**raw, "bad": [(name, reason) for name, reason in raw["bad"]]})
        store = FaceStore(meta, target)
        if len(meta.content) != 64:
            raise ValueError("its content has no digest")
        for part, shape in meta.parts.items():
            _verify(store, part, (len(meta.names), *shape))
        return store
    except FileNotFoundError as error:
        if not target.exists():
            return None
        log.warning("the face cache %s is incomplete (%s); building it again", target, error)
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        log.warning("the face cache %s is damaged (%s); building it again", target, error)
    return None


def _verify(store: FaceStore, part: str, shape: tuple[int, ...]) -> None:
    """Compare shape and checksums; of a large set 32 blocks, evenly spaced, to keep the start quick."""
    array = store.part(part)
    if array is None or array.shape != shape or array.dtype != np.uint8:
        raise ValueError(f"{part}.npy is not uint8 {shape}")
    sums = store.meta.crc[part]
    if len(sums) != -(-shape[0] // BLOCK):
        raise ValueError(f"{part}.npy has {len(sums)} checksums")
    for i in np.unique(np.linspace(0, len(sums) - 1, 32).astype(int)).tolist() if sums else []:
        if zlib.crc32(array[i * BLOCK : (i + 1) * BLOCK].tobytes()) != sums[i]:
            raise ValueError(f"{part}.npy: wrong checksum of pictures {i * BLOCK} and on")


def build_store(folder: Path, key: str, entries: Callable[[], Iterator[Entry]], count: int) -> FaceStore:
    """Write the cache of `key` from `entries()` (at most `count` of them) and open it.

    Written into a folder of its own and renamed when whole: another process sees all or nothing, and of two
    that build at once the first to finish wins. When the disk is full or `folder` cannot be written, a
    warning says so and the faces are kept in memory; OSError when they would take more than MEMORY_LIMIT.
    """
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key[:12]}-", dir=folder))
        meta = _write(temporary, entries())
        return FaceStore(meta, _publish(temporary, folder, key))
    except OSError as error:
        log.warning("cannot write the face cache in %s (%s); keeping the faces in memory", folder, error)
        return _in_memory(folder, entries(), count, error)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Half-written folders of builders that were killed: those begun more than a day ago."""
    for path in folder.glob(f".{'[0-9a-f]' * 12}-*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_AGE:
                shutil.rmtree(path)


def _write(folder: Path, entries: Iterator[Entry]) -> Meta:
    """Stream the pixels into `folder`; plain writes, because a full disk kills whoever writes to a map."""
    meta, content = Meta(), hashlib.sha256()
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for entry in entries:
            if not _note(meta, content, entry):
                continue
            for part, pixels in entry.parts.items():
                if part not in files:
                    files[part] = stack.enter_context(open(folder / f"{part}.npy", "wb"))
                    files[part].write(b"\0" * _HEADER)
                data = np.ascontiguousarray(pixels, np.uint8).tobytes()
                files[part].write(data)
                _add_checksum(meta, part, data)
        for part, file in files.items():  # the count is known only now: bad files have no row
            file.seek(0)
            file.write(_npy_header((len(meta.names), *meta.parts[part])))
            file.flush()
            os.fsync(file.fileno())
    meta.content = content.hexdigest()
    (folder / "meta.json").write_text(json.dumps(asdict(meta)), encoding="utf-8")
    return meta


def _note(meta: Meta, content: hashlib._Hash, entry: Entry) -> bool:
    """Enter one candidate into `meta` and `content`; False when it is a bad one."""
    if entry.reason is not None:
        meta.bad.append((entry.name, entry.reason))
        return False
    meta.names.append(entry.name)
    meta.enlarged += entry.enlarged
    content.update(json.dumps([entry.name, {part: pixels.shape for part, pixels in entry.parts.items()}]).encode())
    for part, pixels in entry.parts.items():
        meta.parts.setdefault(part, list(pixels.shape))
        content.update(np.ascontiguousarray(pixels, np.uint8).data)
    return True


def _add_checksum(meta: Meta, part: str, data: bytes) -> None:
    sums = meta.crc.setdefault(part, [])
    if (len(meta.names) - 1) % BLOCK == 0:
        sums.append(0)
    sums[-1] = zlib.crc32(data, sums[-1])


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """An .npy version 1.0 header of exactly _HEADER bytes, so that it can be written last."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape})
    body = text.encode("latin1").ljust(_HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def _publish(temporary: Path, folder: Path, key: str) -> Path:
    """Rename the finished folder to its place; what stands there already is kept if it is whole."""
    target = folder / key[:32]
    if target.exists():
        if load_store(folder, key) is not None:
            return target
        aside = Path(tempfile.mkdtemp(prefix=f".{key[:12]}-", dir=folder))
        with suppress(FileNotFoundError):  # another process was about the same
            target.rename(aside / "damaged")
        shutil.rmtree(aside, ignore_errors=True)
    temporary.chmod(0o755)  # mkdtemp's 0700 would shut out others who share the cache
    try:
        temporary.rename(target)
    except OSError:
        if load_store(folder, key) is None:  # not because another process was first
            raise
    return target


def _in_memory(folder: Path, entries: Iterator[Entry], count: int, error: OSError) -> FaceStore:
    meta, content = Meta(), hashlib.sha256()
    rows: dict[str, list[np.ndarray]] = {}
    for entry in entries:
        if not _note(meta, content, entry):
            continue
        size = count * sum(pixels.nbytes for pixels in entry.parts.values())
        if size > MEMORY_LIMIT:
            raise OSError(
                f"cannot write the face cache in {folder} ({error}); {count} faces take {size >> 20} MiB, "
                "too much for memory; set cache to a folder with room, or set limit"
            ) from error
        for part, pixels in entry.parts.items():
            rows.setdefault(part, []).append(np.array(pixels, np.uint8))
    meta.content = content.hexdigest()
    return FaceStore(meta, None, {part: np.stack(row) for part, row in rows.items()})
