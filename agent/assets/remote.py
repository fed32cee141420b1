"""Somewhere else that keeps the assets, so that gateways on other machines can serve them.

`Remote` is all that is asked of such a place. Object stores are reached through obstore, which is
imported only where one is configured. Must not know what a picture is.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from obstore.store import ObjectStore

ALLOW_HTTP: Final = "AWS_ALLOW_HTTP"
CALL_S: Final = 30.0
RETRIES_MAX: Final = 2
LISTED_AT_ONCE: Final = 1000


class RemoteError(Exception):
    """The place does not do what it is asked; the text says why."""


class RemoteFile(NamedTuple):
    """A file that is kept there. Units: bytes, Unix seconds."""

    name: str
    size_bytes: int
    written_s: float


class Remote(Protocol):
    """Keeps files by keys such as `images/2026-03/a.b.png`. Every call may raise RemoteError."""

    async def put(self, key: str, data: bytes, content_type: str) -> None:
        """Keep a file, in place of one that may be there."""

    async def get(self, key: str) -> bytes | None:
        """Return a file; None if there is none."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget files; those that are missing are fine."""

    async def listing(self, folder: str) -> list[RemoteFile]:
        """Return the files whose keys begin with `folder` and a slash, by the rest of the key."""
        ...


class Objects:
    """A bucket or container. Source: obstore 0.12.1, tried against moto 5.2."""

    def __init__(self, store: "ObjectStore") -> None:
        """Use `open_objects`."""
        self._store = store

    async def put(self, key: str, data: bytes, content_type: str) -> None:
        """Keep a file, in place of one that may be there. Raises: RemoteError."""
        import obstore  # noqa: PLC0415 - see the head of this module

        try:
            await obstore.put_async(
                self._store, key, data, attributes={"Content-Type": content_type}
            )
        except obstore.exceptions.BaseError as error:
            raise _explained(error) from error

    async def get(self, key: str) -> bytes | None:
        """Return a file; None if there is none. Raises: RemoteError."""
        import obstore  # noqa: PLC0415 - see the head of this module

        try:
            found = await obstore.get_async(self._store, key)
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            return None
        except obstore.exceptions.BaseError as error:
            raise _explained(error) from error

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget files; those that are missing are fine. Raises: RemoteError."""
        import obstore  # noqa: PLC0415 - see the head of this module

        if not keys:
            return
        try:
            await obstore.delete_async(self._store, list(keys))
        except FileNotFoundError:
            return
        except obstore.exceptions.BaseError as error:
            raise _explained(error) from error

    async def listing(self, folder: str) -> list[RemoteFile]:
        """Return the files below a folder. Raises: RemoteError."""
        import obstore  # noqa: PLC0415 - see the head of this module

        found: list[RemoteFile] = []
        try:
            async for some in obstore.list(self._store, folder, chunk_size=LISTED_AT_ONCE):
                found += [
                    RemoteFile(
                        one["path"].removeprefix(f"{folder}/"),
                        one["size"],
                        one["last_modified"].timestamp(),
                    )
                    for one in some
                ]
        except obstore.exceptions.BaseError as error:
            raise _explained(error) from error
        return found


def open_objects(url: str) -> Objects:
    """Return what keeps files at `s3://bucket/prefix` or `az://container/prefix`.

    Keys and region are read from the environment by their usual names, AWS_... and AZURE_....
    Nothing is asked yet. Raises: RemoteError.
    """
    try:
        from obstore import exceptions  # noqa: PLC0415 - see the head of this module
        from obstore.store import from_url  # noqa: PLC0415
    except ImportError as error:
        raise RemoteError("MMG_ASSETS_URL needs obstore: pip install 'mmg[objects]'") from error
    try:
        store = from_url(
            url,
            client_options={
                "timeout": timedelta(seconds=CALL_S),
                # obstore no longer reads this one by itself once there are options.
                "allow_http": os.environ.get(ALLOW_HTTP, "").lower() == "true",
            },
            retry_config={
                "max_retries": RETRIES_MAX,
                "retry_timeout": timedelta(seconds=CALL_S),
            },
        )
    except exceptions.BaseError as error:
        raise _explained(error) from error
    return Objects(store)


def _explained(error: Exception) -> RemoteError:
    """Return the error without the debugging text behind its first paragraph."""
    return RemoteError(str(error).partition("\n")[0][:400])
