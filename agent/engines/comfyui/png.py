"""PNG bytes without the text that ComfyUI writes into them: prompts must not travel with pictures.

Pixels and every other chunk stay as they are; a signed picture (C2PA, chunk caBX) is not touched,
because removing anything would break its signature.
"""

from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
TEXT: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})
FRAME: Final = 12
"""Bytes of a chunk beside its content: length, kind, checksum."""
SIGNED: Final = b"caBX"


def without_text(data: bytes) -> bytes:
    """Return the picture without its text chunks; what is no whole PNG is returned as it is."""
    if not data.startswith(SIGNATURE):
        return data
    chunks: list[tuple[bytes, int, int]] = []
    at = len(SIGNATURE)
    while at + FRAME <= len(data):
        end = at + FRAME + int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], at, end))
        at = end
    kinds = {kind for kind, _, _ in chunks}
    if at != len(data) or SIGNED in kinds or not kinds & TEXT:
        return data
    return SIGNATURE + b"".join(data[at:end] for kind, at, end in chunks if kind not in TEXT)
