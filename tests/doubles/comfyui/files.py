"""The folders of the double: output, input and temp; their names and what may leave them."""

import hashlib
import random
import string
from pathlib import Path

KINDS = ("output", "input", "temp")
SHOWN_ROOT = "/opt/ComfyUI"
"""The installation folder that error messages name."""


class OutsideError(Exception):
    """A path leads out of its folder."""


class Folders:
    """One folder of state: files outlive a restart, temp does not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.temp_prefix = ""
        self.page = root / "index.html"
        for kind in KINDS:
            self.of(kind).mkdir(parents=True, exist_ok=True)
        self.page.write_text("<html>a double of ComfyUI</html>\n", encoding="utf-8")
        self.fresh()

    def fresh(self) -> None:
        """Do what a start does: wipe temp, choose a new prefix for it."""
        for path in sorted(self.of("temp").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        letters = random.choices(string.ascii_lowercase, k=5)
        self.temp_prefix = "ComfyUI_temp_" + "".join(letters)

    def of(self, kind: str) -> Path:
        """Return the folder of a kind."""
        return self.root / kind

    def find(self, kind: str, subfolder: str, name: str) -> Path:
        """Return where a file of this name is or would be. *Raises* OutsideError."""
        folder = self.of(kind).resolve()
        inside = (folder / subfolder).resolve()
        if inside != folder and folder not in inside.parents:
            raise OutsideError(subfolder)
        return inside / Path(name).name

    def input_path(self, name: str) -> Path:
        """Return the file that LoadImage names, maybe with a subfolder before it."""
        return self.find("input", str(Path(name).parent), name)

    def save(self, kind: str, prefix: str, pictures: list[bytes]) -> list[dict[str, str]]:
        """Write pictures under the next free numbers. *Raises* OutsideError."""
        subfolder = "" if Path(prefix).parent == Path() else Path(prefix).parent.as_posix()
        stem = Path(prefix).name
        folder = self.find(kind, subfolder, stem).parent
        folder.mkdir(parents=True, exist_ok=True)
        taken = [path.name.removeprefix(f"{stem}_") for path in folder.glob(f"{stem}_*_.*")]
        numbers = [int(name.split("_")[0]) for name in taken if name.split("_")[0].isdigit()]
        number = max(numbers, default=0)
        saved = []
        for data in pictures:
            number += 1
            name = f"{stem}_{number:05}_.png"
            (folder / name).write_bytes(data)
            saved.append({"filename": name, "subfolder": subfolder, "type": kind})
        return saved

    def upload(self, kind: str, subfolder: str, name: str, data: bytes, *, overwrite: bool) -> str:
        """Keep an uploaded file; return the name it got. *Raises* OutsideError."""
        path = self.find(kind, subfolder, name)
        if path.name != name:
            raise OutsideError(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        number = 0
        wanted = path
        while not overwrite and path.exists() and path.read_bytes() != data:
            number += 1
            path = wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}")
        path.write_bytes(data)
        return path.name

    def fingerprint(self, name: str) -> str:
        """Return what changes when an input file changes."""
        path = self.input_path(name)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
