"""Find whatever is wrong with a data set in one pass: open every split, read every image, compare the splits.

Nothing is written. A *problem* makes a data set unfit, or its figures wrong; a *notice* is worth a look and may be
meant so. What a file must look like is the readers' business: here they are strict (see `problems`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from eomt.data.archive import Archive
from eomt.data.detect import Found, find_format
from eomt.data.images import IMAGE_SUFFIXES, read_image
from eomt.data.pool import in_order
from eomt.data.problems import collecting
from eomt.data.reader import Split
from eomt.errors import DataError
from eomt.types import ANY_CLASS, Segments

__all__ = ["Kind", "Problem", "Report", "SplitCounts", "validate"]

Kind = Literal["layout", "entries", "images", "segments", "same image", "classes", "left out"]
"""What a problem is of: the data set as a whole; lists and annotation files, and files that are absent or of no
use; pictures that cannot be read; masks and shapes; images that are there twice; classes; what reading passes
over."""


class Problem(NamedTuple):
    """One thing that is wrong, or worth a look."""

    severity: Literal["problem", "notice"]
    kind: Kind
    split: str
    """Empty where it concerns several."""
    file: str
    """Its name from the root of the data set; empty where it is of no one file."""
    image_id: str
    """Empty where it is of no one image."""
    message: str
    """What was found, where, and what to do."""


class SplitCounts(NamedTuple):
    """What a split has."""

    name: str
    images: int
    segments: int
    negatives: int
    """Images without any segment."""


@dataclass(frozen=True)
class Report:
    """What was found in a data set."""

    path: Path
    format: str
    """Empty where none was recognised."""
    splits: tuple[SplitCounts, ...]
    findings: tuple[Problem, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What makes it unfit."""
        return tuple(finding for finding in self.findings if finding.severity == "problem")

    @property
    def notices(self) -> tuple[Problem, ...]:
        """What may be meant so."""
        return tuple(finding for finding in self.findings if finding.severity == "notice")


def validate(
    root: str | Path,
    format: str | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look for everything that is wrong with a data set. What is wrong with the data is reported, not raised.

    `workers` processes read the images; None: as many as the machine has processors, for more than a few images.
    `progress` is told how many images were read, and of how many. Raises ConfigError for a format that is not
    known, ResourceError where a process dies.
    """
    try:
        found = find_format(root, format)
    except DataError as error:
        return Report(Path(root), "", (), (Problem("problem", "layout", "", "", "", str(error)),))
    root = Path(root)
    opened, findings = _open(found, root)
    results: dict[str, list[_Read]] = {}
    total = sum(map(len, opened.values()))
    for name, split in opened.items():
        done = sum(map(len, results.values()))
        results[name] = []
        for read in chain.from_iterable(in_order(_Checks(split), "images", workers, total)):
            results[name].append(read)
            if progress:
                progress(done + len(results[name]), total)
        findings += _of_samples(name, split, results[name], root)
    findings += _unused(found.archive, opened)
    findings += _same_images(opened, results)
    train = None
    with collecting():  # what is wrong with the splits was told when they were opened
        train = found.name_of("train")
    findings += _classes(opened, results, train)
    counts = tuple(
        SplitCounts(
            name, len(reads), sum(read.labels.total() for read in reads), sum(not read.labels for read in reads)
        )
        for name, reads in results.items()
    )
    return Report(root, found.format.name, counts, tuple(_distinct(findings)))


def _open(found: Found, root: Path) -> tuple[dict[str, Split], list[Problem]]:
    """Open every split. What is wrong with several is said once, and of none of them."""
    archive, opened = found.archive, dict[str, Split]()
    where: dict[str, list[str]] = {}
    names: tuple[str, ...] = ()
    try:
        names = found.splits
    except DataError:
        with collecting() as faults:
            names = found.splits
        where = {str(fault): [] for fault in faults}
    for name in names:
        with collecting() as faults:
            opened[name] = found.format.open(archive, name)
        for message in dict.fromkeys(map(str, faults)):
            where.setdefault(message, []).append(name)
    findings = [
        Problem("problem", "entries", splits[0] if len(splits) == 1 else "", _file(message, root), "", message)
        for message, splits in where.items()
    ]
    if not names:
        findings.append(
            Problem("problem", "layout", "", "", "", f"{archive.path}: no split with annotated images")
        )
    for name, split in opened.items():
        findings += [Problem("notice", "left out", name, "", "", f"left out {what}") for what in split.left_out]
        if not split.items:
            message = f"{archive.path}: split {name} has no image that can be read"
            findings.append(Problem("problem", "layout", name, "", "", message))
        findings += [
            Problem("problem", "entries", name, "", id, f"{archive.path}: two images of {name} are called {id}")
            for id, count in Counter(split.image_ids).items()
            if count > 1
        ]
    return opened, findings


def _file(message: str, root: Path) -> str:
    """Give the file that a message is of, which comes first in it, from the root of the data set on."""
    place = message.partition(": ")[0]
    if place.startswith(f"{root}/"):
        return place.removeprefix(f"{root}/")
    name, _, archive = place.partition(" in ")
    return name if str(root) in archive else ""


class _Fault(NamedTuple):
    """What is wrong with an image or its segments."""

    kind: Kind
    message: str


class _Read(NamedTuple):
    """What is kept of an image that was read."""

    digest: bytes
    """Of its file; empty where it cannot be read."""
    labels: Counter[int]
    """How many segments it has of each class."""
    faults: tuple[_Fault, ...]


@dataclass(frozen=True)
class _Checks:
    """A split as a map-style data set of torch, which reads samples but hands out only what was found in them."""

    split: Split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> _Read:
        split = self.split
        item = split.items[index]
        digest, labels = b"", Counter[int]()
        with collecting() as of_image:
            data = split.image_bytes(index)
            digest = blake2b(data, digest_size=16).digest()
            read_image(data, split.archive.where(item.image))
        with collecting() as of_segments:
            segments = split.segments(index)
            labels = Counter(label for label in segments.labels.tolist() if label != ANY_CLASS)
            for words in _wrong(segments, len(split.categories)):
                of_segments.append(
                    DataError(f"{split.archive.where(item.annotation)}: image {item.image_id}: {words}")
                )
        known = dict.fromkeys(map(str, of_image))
        faults = [_Fault("images", message) for message in known]
        faults += [_Fault("segments", str(fault)) for fault in of_segments if str(fault) not in known]
        return _Read(digest, labels, tuple(faults))


def _wrong(segments: Segments, classes: int) -> Iterator[str]:
    """Tell what no reader should let pass."""
    labels = segments.labels.tolist()
    for index, (label, area) in enumerate(zip(labels, segments.masks.areas().tolist(), strict=True)):
        if not ANY_CLASS <= label < classes:
            yield f"segment {index}: label {label}, but there are {classes} classes"
        if not area:
            yield f"segment {index}: its mask has no pixels; draw it again, or remove it"


def _of_samples(name: str, split: Split, reads: Iterable[_Read], root: Path) -> Iterator[Problem]:
    for item, read in zip(split.items, reads, strict=True):
        for kind, message in read.faults:
            place = split.archive.where(item.image if kind == "images" else item.annotation)
            file = _file(message, root) or _file(place, root)
            yield Problem("problem", kind, name, file, item.image_id, message)


def _unused(archive: Archive, opened: dict[str, Split]) -> Iterator[Problem]:
    """Notice pictures among those of a split that belong to none."""
    used = {name for split in opened.values() for item in split.items for name in (item.image, item.annotation)}
    pictures = [name for name in archive.names() if name.lower().endswith(IMAGE_SUFFIXES) and name not in used]
    for name, split in opened.items():
        folders = {item.image.rpartition("/")[0] for item in split.items}
        spare = [picture for picture in pictures if picture.rpartition("/")[0] in folders]
        if spare:
            message = f"{len(spare)} pictures lie among its images, but are none of them: {_some(spare)}"
            yield Problem("notice", "left out", name, spare[0], "", message)


def _is_union(name: str) -> bool:
    """Tell whether a split is made of others by its name: VOC's trainval."""
    return name.casefold() == "all" or ("train" in name.casefold() and "val" in name.casefold())


def _same_images(opened: dict[str, Split], results: dict[str, list[_Read]]) -> Iterator[Problem]:
    """Compare the files of images by their content, whatever they are called."""
    first: dict[bytes, tuple[str, str, str]] = {}
    for name, split in opened.items():
        if _is_union(name) and len(opened) > 1:
            continue
        for item, read in zip(split.items, results[name], strict=True):
            if not read.digest:
                continue
            other, other_id, other_file = first.setdefault(read.digest, (name, item.image_id, item.image))
            place = f"{item.image}: image {item.image_id} of {name} has the same content as {other_id} of {other}"
            if other != name:
                message = f"{place} ({other_file}): figures on it do not count; keep it in one split"
                yield Problem("problem", "same image", name, item.image, item.image_id, message)
            elif other_id != item.image_id:
                message = f"{place} ({other_file})"
                yield Problem("notice", "same image", name, item.image, item.image_id, message)


class _Use(NamedTuple):
    """How often a split has a class, and where first."""

    segments: int
    image_id: str
    file: str


def _classes(opened: dict[str, Split], results: dict[str, list[_Read]], train: str | None) -> Iterator[Problem]:
    """Compare the classes of the splits, and those listed with those used."""
    if not opened:
        return
    uses = {name: _uses(split, results[name]) for name, split in opened.items()}
    first = train if train is not None and train in opened else next(iter(opened))
    categories = opened[first].categories
    # Images that cannot be read may have the classes that are missed.
    severity: Literal["problem", "notice"] = "notice" if any(read.faults for read in results[first]) else "problem"
    for name, split in opened.items():
        ids, known = ({category.name: category.id for category in some} for some in (split.categories, categories))
        if ids != known:
            different = sorted(other for other in ids.keys() | known.keys() if ids.get(other) != known.get(other))
            message = f"classes of {name} are not those of {first}: {_some(different)}; list the same in both"
            yield Problem("problem", "classes", name, "", "", message)
        for label, use in sorted(uses[name].items()):
            word = split.categories[label].name
            if (
                first == train
                and not _is_union(name)
                and word not in {categories[known].name for known in uses[first]}
            ):
                message = (
                    f"class {word!r} has {use.segments} segments in {name} (first in image {use.image_id}), but "
                    f"none in {first}: it cannot be learnt; divide the images anew, or drop it"
                )
                yield Problem(severity, "classes", name, use.file, use.image_id, message)
    used = {opened[name].categories[label].name for name in opened for label in uses[name]}
    idle = [category.name for category in categories if category.name not in used]
    if idle:
        message = f"{len(idle)} of {len(categories)} classes have no segment in any split: {_some(idle)}"
        yield Problem("notice", "classes", "", "", "", message)
    gaps = [low + 1 for low, high in pairwise(sorted(category.id for category in categories)) if high > low + 1]
    if gaps:
        message = f"the ids of the classes have gaps, at {_some(gaps)}: in files, ids are not places in the list"
        yield Problem("notice", "classes", "", "", "", message)


def _uses(split: Split, reads: Iterable[_Read]) -> dict[int, _Use]:
    uses: dict[int, _Use] = {}
    for item, read in zip(split.items, reads, strict=True):
        for label, count in read.labels.items():
            if label < len(split.categories):
                before = uses.get(label, _Use(0, item.image_id, item.annotation))
                uses[label] = before._replace(segments=before.segments + count)
    return uses


def _some(values: Iterable[object]) -> str:
    shown = [str(value) for value in values]
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")


def _distinct(findings: Iterable[Problem]) -> Iterator[Problem]:
    """Leave out what was told before: a fault of a file is found when it is opened, and again when it is read."""
    told = set()
    for finding in findings:
        key = finding.severity, finding.kind in ("classes", "left out") and finding.split, finding.message
        if key not in told:
            told.add(key)
            yield finding
