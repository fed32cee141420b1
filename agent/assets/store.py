"""The asset store: pictures under one root, kept, found and removed.

The public methods never block the loop: all work on files is done by two threads. Must not decide
which attempt won; the chain does.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from contextvars import copy_context
from datetime import datetime
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import Final, NamedTuple, TypeVar

import msgspec
import structlog

from agent.assets import files, names
from agent.assets.check import check
from agent.assets.own import find_own
from agent.assets.thumbnails import jpeg_copy, thumbnail
from agent.clock import Clock, SystemClock
from agent.core.faults import Fault, InternalFault
from agent.core.picture import Picture
from agent.core.retention import FileOnDisk
from contracts.events import Output
from contracts.subjects import Identity

IMAGES: Final = "images"
ASSETS_PATH: Final = "/api/multimodal/assets"
THREADS: Final = 2
"""Twenty decoders at once delay the loop by 59 ms, two do not. Source: Pillow 13, measured."""

TEMPORARY_AGE_S: Final = 3600.0

_MAKERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    names.THUMBNAIL: thumbnail,
    names.COPY: jpeg_copy,
}
"""What is made beside a picture, by the ending of its name."""

log = structlog.get_logger()

T = TypeVar("T")


class AssetStore:
    """The pictures of all requests, as files below `root`.

    Several stores, also of several programs, may share a root; `worker` names this one's temp
    files.
    """

    def __init__(
        self,
        root: Path,
        public_url: str,
        worker: str = "gateway",
        *,
        clock: Clock | None = None,
        jpeg: bool = False,
    ) -> None:
        """Look at nothing yet; the folders are made with the first picture.

        `jpeg`: each picture gets a copy as JPEG at once, not only when it is asked for.
        """
        self._root = root.absolute()
        self._images = self._root / IMAGES
        self._url = f"{public_url.rstrip('/')}{ASSETS_PATH}/{IMAGES}"
        self._worker = names.writer_token(worker)
        self._clock = clock or SystemClock()
        self._jpeg = jpeg
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="assets")

    async def store(
        self,
        who: Identity,
        attempt: int,
        stored_at: datetime,
        pictures: Sequence[Picture],
        record: Mapping[str, object],
    ) -> tuple[Output, ...]:
        """Keep all pictures of an attempt, each with its record beside it, or none.

        A picture that a crash of the same attempt left whole is taken as it is. A caller that is
        cancelled leaves no files either.

        Raises: PictureBrokenFault, DiskFullFault, InternalFault.
        """
        folder = self._images / names.month(stored_at)
        batch = _Batch(who, attempt, folder, record, created=[])
        job = self._threads.submit(copy_context().run, lambda: self._store(batch, pictures))
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.add_done_callback(lambda _: _undo(batch.created))
            raise

    async def discard(self, outputs: Sequence[Output]) -> None:
        """Remove the files of outputs that lost; those that are missing are fine.

        Raises: InternalFault.
        """
        await self._run(lambda: files.remove(self._files_of(outputs)))

    async def remove_other_attempts(
        self, who: Identity, stored_at: datetime, keep: Sequence[Output]
    ) -> None:
        """Remove every file of a request that belongs to none of the pictures in `keep`.

        Temp files of any worker too. Order: after `completed` was stored, by its writer.
        Raises: InternalFault.
        """
        folder = self._images / names.month(stored_at)
        kept = [Path(output.file_path).name for output in keep]

        def work() -> None:
            files.remove(
                folder / file for file in names.left_over(files.listing(folder), who, kept)
            )

        await self._run(work)

    async def thumbnails(self, outputs: Sequence[Output]) -> None:
        """Make what is missing beside pictures: thumbnails, and JPEG copies where they are wanted.

        What cannot be made is logged, never raised.
        """
        for output in outputs:
            if (path := self._own(output)) is not None:
                await self.thumbnail_on_demand(path)
                if self._jpeg and path.suffix != names.JPEG:
                    await self._run(partial(self._beside, path, names.COPY))

    async def thumbnail_on_demand(self, path: Path) -> Path | None:
        """Return the thumbnail of a stored picture, made if it is missing; None if it cannot be."""
        return await self._run(lambda: self._beside(path, names.THUMBNAIL))

    async def find_or_make(self, kind: str, month: str, file: str) -> Path | None:
        """Do what `find` does, and make the thumbnail or the copy if that is what is missing."""
        if (path := self.find(kind, month, file)) is not None:
            return path
        ending = next((one for one in _MAKERS if file.endswith(one)), None)
        if ending is None:
            return None
        stem = file.removesuffix(ending)
        candidates = (self.find(kind, month, f"{stem}{suffix}") for suffix in names.PICTURES)
        picture = next(filter(None, candidates), None)
        if picture is None:
            return None
        return await self._run(lambda: self._beside(picture, ending))

    def find(self, kind: str, month: str, file: str) -> Path | None:
        """Return a picture or thumbnail that may be handed out; None for anything else.

        Records stay inside, symbolic links are not followed, and no spelling leaves the root.
        """
        name = names.read(file)
        if kind != IMAGES or not names.is_month(month) or name is None:
            return None
        if name.writer is not None or name.role == "record":
            return None
        real = Path(os.path.realpath(self._root), IMAGES, month, file)
        if Path(os.path.realpath(real)) != real or not real.is_file():
            return None
        return self._images / month / file

    async def remove_temporary(self) -> None:
        """Remove temp files of this worker, and of any other after an hour.

        Order: at the start, before this store writes anything. Raises: InternalFault.
        """
        old = self._clock.now().timestamp() - TEMPORARY_AGE_S

        def work() -> None:
            for month in filter(names.is_month, files.listing(self._images)):
                files.remove(self._stale(self._images / month, old))

        await self._run(work)

    async def read_own(
        self, agent: str, *, request_id: str | None = None, sha256: str | None = None
    ) -> bytes | None:
        """Read a picture that `agent` (a token) owns, by request or by content; None: no such."""

        def work() -> bytes | None:
            path = find_own(self._images, agent, request_id=request_id, sha256=sha256)
            return None if path is None else path.read_bytes()

        return await self._run(work)

    async def inventory(self) -> list[FileOnDisk]:
        """Return every file in the folders of the months. Raises: InternalFault."""

        def work() -> list[FileOnDisk]:
            months = filter(names.is_month, files.listing(self._images))
            return [one for month in sorted(months) for one in self._in_month(month)]

        return await self._run(work)

    async def remove(self, places: Sequence[tuple[str, str]]) -> None:
        """Remove files, each named by month and name; those that are missing are fine.

        Raises: InternalFault.
        """
        for month, name in places:
            assert names.is_month(month), "a folder of this store"
            assert names.read(name) is not None, "a file of this store"
        await self._run(lambda: files.remove(self._images / month / name for month, name in places))

    def free_bytes(self) -> tuple[int, int]:
        """Return the free and the total bytes of the disk that holds, or would hold, the root."""
        there = next(path for path in (self._root, *self._root.parents) if path.exists())
        usage = shutil.disk_usage(there)
        return usage.free, usage.total

    async def used_bytes(self) -> int:
        """Return what all pictures, records and thumbnails take on the disk."""
        return await self._run(lambda: files.size_bytes(self._images))

    async def _run(self, work: Callable[[], T]) -> T:
        job: Future[T] = self._threads.submit(copy_context().run, work)
        return await asyncio.wrap_future(job)

    def _store(self, batch: "_Batch", pictures: Sequence[Picture]) -> tuple[Output, ...]:
        for picture in pictures:
            check(picture)
        files.make_folder(batch.folder)
        with ExitStack() as undo:
            undo.callback(_undo, batch.created)
            outputs = tuple(self._place(batch, n, each) for n, each in enumerate(pictures, start=1))
            files.sync_folder(batch.folder)
            undo.pop_all()
        return outputs

    def _place(self, batch: "_Batch", n: int, picture: Picture) -> Output:
        """Write one picture and its record under the first stem that is free for both."""
        sha256 = hashlib.sha256(picture.data).hexdigest()
        record = _record(batch.record, picture, sha256)
        for stem in names.stems(batch.who, batch.attempt, n, sha256):
            path = batch.folder / f"{stem}{names.extension(picture)}"
            beside = batch.folder / f"{stem}{names.RECORD}"
            if files.create(path, picture.data, self._worker):
                batch.created.append(path)
                if files.create(beside, record, self._worker):
                    batch.created.append(beside)
                    return self._output(path, stem, picture, sha256)
                files.remove([batch.created.pop()])
            elif files.holds(path, picture.data):
                files.replace(beside, record, self._worker)
                return self._output(path, stem, picture, sha256)
        raise InternalFault("No name is free for a picture.", str(batch.who))

    def _output(self, path: Path, stem: str, picture: Picture, sha256: str) -> Output:
        folder = f"{self._url}/{path.parent.name}"
        return Output(
            url=f"{folder}/{path.name}",
            file_path=str(path),
            thumbnail_url=f"{folder}/{stem}{names.THUMBNAIL}",
            file_size_bytes=len(picture.data),
            width=picture.width,
            height=picture.height,
            format=picture.format,
            sha256=sha256,
        )

    def _beside(self, path: Path, ending: str) -> Path | None:
        """Make a lesser copy beside a picture unless it is there; None if it cannot be made."""
        name = names.read(path.name)
        assert name is not None, "a picture of this store"
        target = path.with_name(f"{name.stem}{ending}")
        try:
            if not target.exists():
                files.create(target, _MAKERS[ending](path.read_bytes()), self._worker)
        except (Fault, OSError) as error:
            log.warning("assets.thumbnail_failed", file=path.name, error=repr(error))
            return None
        return target

    def _own(self, output: Output) -> Path | None:
        """Return where an output lies if that is a picture of this store; others are not ours."""
        path = Path(output.file_path)
        name = names.read(path.name)
        inside = path.parent.parent == self._images and names.is_month(path.parent.name)
        return path if inside and name is not None and name.role == "picture" else None

    def _files_of(self, outputs: Iterable[Output]) -> Iterator[Path]:
        for path in filter(None, map(self._own, outputs)):
            stem = path.name.removesuffix(path.suffix)
            yield path
            yield path.with_name(f"{stem}{names.RECORD}")
            yield path.with_name(f"{stem}{names.THUMBNAIL}")
            yield path.with_name(f"{stem}{names.COPY}")

    def _in_month(self, month: str) -> Iterator[FileOnDisk]:
        for name in sorted(files.listing(self._images / month)):
            with suppress(FileNotFoundError):  # Removed meanwhile.
                found = (self._images / month / name).lstat()
                if S_ISREG(found.st_mode):
                    yield FileOnDisk(month, name, found.st_size, found.st_mtime)

    def _stale(self, folder: Path, old: float) -> Iterator[Path]:
        for file in files.listing(folder):
            name = names.read(file)
            if name is None or name.writer is None:
                continue
            with suppress(FileNotFoundError):
                if name.writer == self._worker or (folder / file).stat().st_mtime < old:
                    yield folder / file


class _Batch(NamedTuple):
    """The pictures of one attempt; `created` is what has to go if it fails."""

    who: Identity
    attempt: int
    folder: Path
    record: Mapping[str, object]
    created: list[Path]


def _record(record: Mapping[str, object], picture: Picture, sha256: str) -> bytes:
    own = {
        "sha256": sha256,
        "width": picture.width,
        "height": picture.height,
        "format": picture.format,
        "file_size_bytes": len(picture.data),
    }
    return msgspec.json.format(msgspec.json.encode({**record, **own}), indent=2)


def _undo(created: list[Path]) -> None:
    """Remove what was created. What the disk refuses to remove falls to the daily prune."""
    with suppress(InternalFault):
        files.remove(created)
    created.clear()
