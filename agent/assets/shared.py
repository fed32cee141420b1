"""Assets that are also kept elsewhere: what one machine has stored, every other one can serve.

The local folder stays the first place: pictures are stored there and sent on before anybody hears
of them; what a gateway lacks it fetches once and keeps. Must not decide what is deleted.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from agent.assets import files, names
from agent.assets.remote import Remote, RemoteError
from agent.assets.store import IMAGES, AssetStore
from agent.clock import Clock
from agent.core.faults import InternalFault
from agent.core.picture import Picture
from agent.core.retention import FileOnDisk
from contracts.events import Output
from contracts.subjects import Identity

TYPES: Final = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
JSON: Final = "application/json"
MONTHS_BACK: Final = 2
"""Where the picture of a request is looked for, if only its name is known."""

log = structlog.get_logger()


class SharedStore(AssetStore):
    """An asset store whose files are kept in a second place as well."""

    def __init__(
        self,
        root: Path,
        public_url: str,
        worker: str = "gateway",
        *,
        remote: Remote,
        clock: Clock | None = None,
        jpeg: bool = False,
    ) -> None:
        """Look at nothing yet."""
        super().__init__(root, public_url, worker, clock=clock, jpeg=jpeg)
        self._remote = remote

    async def store(
        self,
        who: Identity,
        attempt: int,
        stored_at: datetime,
        pictures: Sequence[Picture],
        record: Mapping[str, object],
    ) -> tuple[Output, ...]:
        """Keep all pictures of an attempt here and there, or none.

        What a caller that is cancelled leaves there goes with the daily prune: no chain names it.

        Raises: PictureBrokenFault, DiskFullFault, InternalFault.
        """
        outputs = await super().store(who, attempt, stored_at, pictures, record)
        is_kept = False
        try:
            for output in outputs:
                await self._send(Path(output.file_path))
            is_kept = True
        except RemoteError as error:
            await super().discard(outputs)
            raise InternalFault(
                "The pictures could not be put where other machines find them.", str(error)
            ) from error
        finally:
            if not is_kept:
                self._threads.submit(files.remove, list(self._files_of(outputs)))
        return outputs

    async def discard(self, outputs: Sequence[Output]) -> None:
        """Remove the files of outputs that lost, here and there. Raises: InternalFault."""
        await super().discard(outputs)
        keys = [_key(path) for path in self._files_of(outputs)]
        try:
            await self._remote.delete(keys)
        except RemoteError as error:
            log.warning("assets.remote_left", files=len(keys), reason=str(error))

    async def find_or_make(self, kind: str, month: str, file: str) -> Path | None:
        """Do what every store does, and fetch a picture that is not here. Raises: RemoteError."""
        if (path := await super().find_or_make(kind, month, file)) is not None:
            return path
        name = names.read(file)
        if kind != IMAGES or not names.is_month(month) or name is None or name.writer is not None:
            return None
        if name.role == "record":
            return None
        wanted = [file] if name.role == "picture" else self._pictures_of(name.stem)
        for one in wanted:
            if await self._fetch(month, one):
                return await super().find_or_make(kind, month, file)
        return None

    async def read_own(
        self, agent: str, *, request_id: str | None = None, sha256: str | None = None
    ) -> bytes | None:
        """Read a picture that `agent` owns; one that is elsewhere is found by its request only."""
        found = await super().read_own(agent, request_id=request_id, sha256=sha256)
        if found is not None or request_id is None:
            return found
        month = self._clock.now()
        for _ in range(MONTHS_BACK + 1):
            for one in self._pictures_of(f"{agent}.{request_id}"):
                if await self._fetch(names.month(month), one):
                    return await super().read_own(agent, request_id=request_id)
            month = month.replace(day=1) - timedelta(days=1)
        return None

    async def inventory(self) -> list[FileOnDisk]:
        """Return every file that is here or there. Raises: InternalFault, RemoteError."""
        here = await super().inventory()
        known = {(file.month, file.name) for file in here}
        for found in await self._remote.listing(IMAGES):
            month, _, name = found.name.partition("/")
            if names.is_month(month) and names.read(name) and (month, name) not in known:
                here.append(FileOnDisk(month, name, found.size_bytes, found.written_s))
        return here

    async def remove(self, places: Sequence[tuple[str, str]]) -> None:
        """Remove files there and here. Raises: InternalFault."""
        try:
            await self._remote.delete([f"{IMAGES}/{month}/{name}" for month, name in places])
        except RemoteError as error:
            raise InternalFault("Files could not be removed elsewhere.", str(error)) from error
        await super().remove(places)

    async def _send(self, path: Path) -> None:
        """Keep a picture and its record elsewhere, too. Raises: RemoteError."""
        record = path.with_name(f"{path.name.removesuffix(path.suffix)}{names.RECORD}")
        for one, kind in ((record, JSON), (path, TYPES[path.suffix])):
            data = await self._run(one.read_bytes)
            await self._remote.put(_key(one), data, kind)

    async def _fetch(self, month: str, file: str) -> bool:
        """Bring one picture here. Raises: RemoteError, InternalFault."""
        data = await self._remote.get(f"{IMAGES}/{month}/{file}")
        if data is None:
            return False

        def keep() -> None:
            files.make_folder(self._images / month)
            files.create(self._images / month / file, data, self._worker)

        await self._run(keep)
        return True

    @staticmethod
    def _pictures_of(stem: str) -> list[str]:
        return [f"{stem}{ending}" for ending in names.PICTURES]


def _key(path: Path) -> str:
    return f"{IMAGES}/{path.parent.name}/{path.name}"
