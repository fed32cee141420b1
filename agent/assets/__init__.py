"""Assets: the pictures kept on disk, with what is known of each and a thumbnail beside it.

`AssetStore` is what others use. Must not know engines, the bus or HTTP; must not decide how long
a picture stays.
"""

from agent.assets.check import PIXELS_MAX, PictureBrokenFault
from agent.assets.remote import RemoteError, open_objects
from agent.assets.shared import SharedStore
from agent.assets.space import LOW_BYTES, LOW_SHARE, MIN_BYTES, Room, room
from agent.assets.store import AssetStore

__all__ = [
    "LOW_BYTES",
    "LOW_SHARE",
    "MIN_BYTES",
    "PIXELS_MAX",
    "AssetStore",
    "PictureBrokenFault",
    "RemoteError",
    "Room",
    "SharedStore",
    "open_objects",
    "room",
]
