"""Find the images that an annotation file names, by their paths or the ends of them, and give them names.

Which folders come first, and what is said of an image that is not there, is left to the readers.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from posixpath import normpath

from eomt.data.archive import Archive
from eomt.data.images import IMAGE_SUFFIXES

__all__ = ["Images", "image_ids"]

_NUMBERED = re.compile(r"[\W_\d]+")
_KINDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What splits are called the world over, without the year."""


class Images:
    """The images of an archive, found by what the annotation of one split calls them.

    `others` are the names of the other splits and `claims` gives, when it is asked for, what their annotations
    call their images: a file of theirs never stands in for one that is missing. A folder of masks is not looked
    into.
    """

    def __init__(
        self,
        archive: Archive,
        split: str = "",
        others: Iterable[str] = (),
        claims: Callable[[], Iterable[str]] = tuple,
        masks: str = "",
    ):
        known = archive.names()
        self.names = [
            name
            for name in known
            if name.lower().endswith(IMAGE_SUFFIXES) and not (masks and name.startswith(masks + "/"))
        ]
        self._known = set(known)
        self._split = split
        self._others = {other.casefold() for other in others if other != split}
        self._claims = claims
        self._by_base: dict[str, list[list[str]]] | None = None
        self._claimed: dict[str, list[list[str]]] | None = None
        self._folders: set[str] = set()

    def find(self, path: str, folders: Iterable[str]) -> str | None:
        """Find an image by its path from one of the folders, else by the longest end of its path that fits.

        The path may be one of another machine. By its end, no file is found that lies in a folder of another
        split, that another split's annotation names as well, or that lies elsewhere while there is a folder of the
        name that the path gives. Of several that fit equally, the one in a folder of the split's name is taken.
        None where there is none. Raises ValueError where several are left.
        """
        path = path.replace("\\", "/")
        parts = _parts(path)
        inside = "/".join(parts)
        for folder in folders:
            for end in (path, inside):
                exact = normpath(f"{folder}/{end}" if folder else end)
                if exact in self._known:
                    return exact
        return self._find_by_end(path, parts) if parts else None

    def _find_by_end(self, path: str, parts: list[str]) -> str | None:
        if self._by_base is None:
            self._by_base = _by_base(self.names)
            self._folders = {folder for names in self._by_base.values() for name in names for folder in name[:-1]}
        fitting = [(name, _common_end(name, parts)) for name in self._by_base.get(parts[-1], ())]
        if len(parts) > 1 and parts[-2] in self._folders:
            fitting = [(name, end) for name, end in fitting if parts[-2] in name[:-1]]
        fitting = [(name, end) for name, end in fitting if not any(map(self._is_foreign, name[:-end]))]
        longest = max((end for _, end in fitting), default=0)
        names = [name for name, end in fitting if end == longest and not self._is_claimed(name, end)]
        names = [name for name in names if self._split in name[:-1]] or names
        if len(names) > 1:
            one, other = ("/".join(name) for name in names[:2])
            raise ValueError(
                f"the image {path!r:.80} may be {one} or {other}; give each image a name of its own, or write the "
                "path from the annotation file"
            )
        return "/".join(names[0]) if names else None

    def _is_foreign(self, folder: str) -> bool:
        """Tell whether a folder is called like another split."""
        if folder.casefold() == self._split.casefold():
            return False
        kind, own = _kind(folder), _kind(self._split)
        return folder.casefold() in self._others or (kind is not None and own is not None and kind != own)

    def _is_claimed(self, name: list[str], end: int) -> bool:
        """Tell whether another split's annotation names a file with as much of its path as the one at hand."""
        if self._claimed is None:
            self._claimed = _by_base(path.replace("\\", "/") for path in self._claims())
        return any(_common_end(name, claim) >= end for claim in self._claimed.get(name[-1], ()))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".", "..")]


def _by_base(paths: Iterable[str]) -> dict[str, list[list[str]]]:
    """Sort paths by their last part."""
    found: dict[str, list[list[str]]] = defaultdict(list)
    for path in paths:
        parts = _parts(path)
        if parts:
            found[parts[-1]].append(parts)
    return found


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """Count the last parts that two paths share."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _kind(name: str) -> str | None:
    """Tell what a split or folder is by its name: `train` for `train2017`. None for other names."""
    return _KINDS.get(_NUMBERED.sub("", name.casefold()))


def image_ids(images: Iterable[str]) -> list[str]:
    """Name images by their files' names without suffix; where two would be one, by their whole paths."""
    images = list(images)
    stems = [image.rsplit("/", 1)[-1].rsplit(".", 1)[0] for image in images]
    if len(set(stems)) == len(stems):
        return stems
    paths = [image.rsplit(".", 1)[0] for image in images]
    return paths if len(set(paths)) == len(paths) else images
