"""Find whatever is wrong with a data set in one pass: open every split, read every image, compare the splits.

Nothing is written. A *problem* makes a data set unfit, or its figures wrong; a *notice* is worth a look and may be
meant so. What a file must look like is the readers' business: here they are strict (see `problems`).
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from eomt.data.archive import Archive
from eomt.data.detect import Found, find_format
from eomt.data.images import IMAGE_SUFFIXES, read_image
from eomt.data.pool import in_order
from eomt.data.problems import Remark, collecting, of_file, tell
from eomt.data.reader import Split
from eomt.data.unions import identities, unions
from eomt.errors import DataError
from eomt.types import ANY_CLASS, Segments

__all__ = ["Kind", "Problem", "Report", "Severity", "SplitCounts", "validate"]

Severity = Literal["problem", "notice"]
Kind = Literal["layout", "entries", "images", "segments", "same image", "classes", "left out", "not checked"]
"""What a problem is of: the data set as a whole; lists and annotation files, and files that are absent or of no
use; pictures that cannot be read; masks and shapes; images that are there twice; classes; what reading passes
over; what could not be looked at."""


class Problem(NamedTuple):
    """One thing that is wrong, or worth a look."""

    severity: Severity
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
    unopened: str = ""
    """Why nothing of it could be read; empty where it could."""


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
    `progress` is told how many images were read, and of how many. Raises DataError where there is nothing of that
    name, ConfigError for a format that is not known, ResourceError where a process dies.
    """
    root = Path(root)
    try:
        found = find_format(root, format)
    except DataError as error:
        if not root.exists():
            raise
        return Report(root, "", (), (Problem("problem", "layout", "", error.file, "", str(error)),))
    opened, unopened, findings = _open(found)
    results: dict[str, list[_Read]] = {}
    total = sum(map(len, opened.values()))
    for name, split in opened.items():
        done = sum(map(len, results.values()))
        results[name] = []
        for read in chain.from_iterable(in_order(_Checks(split), "images", workers, total)):
            results[name].append(read)
            if progress:
                progress(done + len(results[name]), total)
        findings += _of_samples(name, split, results[name])
    names, train = tuple(opened), None
    with collecting():  # what is wrong with the splits was told when they were opened
        names, train = found.splits, found.name_of("train")
    findings += _unchecked(opened, unopened, train)
    if not unopened:
        findings += _unused(found.archive, opened, {finding.file for finding in findings})
    parts = _parts(opened, are_all=not unopened)
    broken = Counter(finding.split for finding in findings if finding.severity == "problem")
    findings += _same_images({name: opened[name] for name in parts}, results)
    findings += _classes(opened, results, parts, train, broken)
    counts = {name: _counts(name, reads) for name, reads in results.items()}
    counts |= {name: SplitCounts(name, 0, 0, 0, reason) for name, reason in unopened.items()}
    # The folder that holds the data set may lie in the one that was named.
    inside = "" if found.archive.path == root else f"{found.archive.path.relative_to(root)}/"
    named = [finding._replace(file=finding.file and inside + finding.file) for finding in findings]
    return Report(root, found.format.name, tuple(counts[name] for name in names), tuple(_distinct(named)))


def _open(found: Found) -> tuple[dict[str, Split], dict[str, str], list[Problem]]:
    """Open every split; say why others cannot be. What is wrong with several is said once, and of none of them."""
    archive, opened, unopened = found.archive, dict[str, Split](), dict[str, str]()
    where: dict[_Fault, list[str]] = {}
    names: tuple[str, ...] = ()
    with collecting() as faults:
        names = found.splits
    if not names:
        where = {fault: [] for fault in _faults("entries", faults)}
    for name in names:
        with collecting() as faults:
            opened[name] = found.format.open(archive, name)
        if name not in opened:
            unopened[name] = str(faults[-1])
        for fault in _faults("entries", faults):
            where.setdefault(fault, []).append(name)
    findings = [
        Problem(fault.severity, fault.kind, splits[0] if len(splits) == 1 else "", fault.file, "", fault.message)
        for fault, splits in where.items()
    ]
    if not names and not findings:
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
    return opened, unopened, findings


def _counts(name: str, reads: list["_Read"]) -> SplitCounts:
    segments = [read.labels.total() for read in reads]
    return SplitCounts(name, len(reads), sum(segments), segments.count(0))


class _Fault(NamedTuple):
    """What is wrong with an image, its segments or a list."""

    severity: Severity
    kind: Kind
    file: str
    message: str


def _faults(kind: Kind, collected: Iterable[ValueError]) -> list[_Fault]:
    """Make faults of what was collected, each once."""
    faults = [
        _Fault("notice" if isinstance(error, Remark) else "problem", kind, getattr(error, "file", ""), str(error))
        for error in collected
    ]
    return list(dict.fromkeys(faults))


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
        with collecting() as of_image, of_file(item.image):
            data = split.image_bytes(index)
            digest = blake2b(data, digest_size=16).digest()
            read_image(data, split.archive.where(item.image))
        with collecting() as of_segments, of_file(item.annotation):
            segments = split.segments(index)
            labels = Counter(label for label in segments.labels.tolist() if label != ANY_CLASS)
            for words in _wrong(segments, len(split.categories)):
                tell(DataError(f"{split.archive.where(item.annotation)}: image {item.image_id}: {words}"))
        known = set(map(str, of_image))  # a picture without a header has no segments either
        others = [error for error in of_segments if str(error) not in known]
        return _Read(digest, labels, (*_faults("images", of_image), *_faults("segments", others)))


def _wrong(segments: Segments, classes: int) -> Iterator[str]:
    """Tell what no reader should let pass."""
    labels = segments.labels.tolist()
    for index, (label, area) in enumerate(zip(labels, segments.masks.areas().tolist(), strict=True)):
        if not ANY_CLASS <= label < classes:
            yield f"segment {index}: label {label}, but there are {classes} classes"
        if not area:
            yield f"segment {index}: its mask has no pixels; draw it again, or remove it"


def _of_samples(name: str, split: Split, reads: Iterable[_Read]) -> Iterator[Problem]:
    for item, read in zip(split.items, reads, strict=True):
        for severity, kind, file, message in read.faults:
            yield Problem(severity, kind, name, file, item.image_id, message)


def _unchecked(opened: Iterable[str], unopened: Iterable[str], train: str | None) -> Iterator[Problem]:
    """Say what was not looked at because a split cannot be opened."""
    others = ", ".join(opened)
    for name in unopened:
        message = f"{name} cannot be opened (see its problems): its images and segments were not checked"
        if others:
            message += f", nor whether it shares images with {others}, or lists the same classes"
        if others and name == train:
            message += ", nor whether it shows every class that is there to be learnt"
        yield Problem("notice", "not checked", name, "", "", f"{message}; mend it and validate again")


def _unused(archive: Archive, opened: dict[str, Split], told: Container[str]) -> Iterator[Problem]:
    """Notice pictures among those of a split that belong to none, and of which nothing was told yet."""
    used = {name for split in opened.values() for item in split.items for name in (item.image, item.annotation)}
    pictures = [
        name
        for name in archive.names()
        if name.lower().endswith(IMAGE_SUFFIXES) and name not in used and name not in told
    ]
    for name, split in opened.items():
        folders = {item.image.rpartition("/")[0] for item in split.items}
        spare = [picture for picture in pictures if picture.rpartition("/")[0] in folders]
        if spare:
            message = f"not read, though among its images (pictures: {len(spare)}): {_some(spare)}"
            yield Problem("notice", "left out", name, spare[0], "", message)


def _parts(opened: dict[str, Split], are_all: bool) -> list[str]:
    """Name the splits but those that are others together (VOC's trainval), or may be where not all were opened."""
    together = set(unions(opened))
    if not are_all:
        images = {name: frozenset(some) for name, some in identities(opened).items()}
        together |= {name for name, own in images.items() if any(other < own for other in images.values())}
    return [name for name in opened if name not in together]


def _same_images(opened: dict[str, Split], results: dict[str, list[_Read]]) -> Iterator[Problem]:
    """Compare the files of images by their content, whatever they are called."""
    first: dict[bytes, tuple[str, str, str]] = {}
    for name, split in opened.items():
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


def _classes(
    opened: dict[str, Split],
    results: dict[str, list[_Read]],
    parts: Iterable[str],
    train: str | None,
    broken: Mapping[str, int],
) -> Iterator[Problem]:
    """Compare the classes of the splits, and those listed with those used. `broken` counts their problems."""
    if not opened:
        return
    uses = {name: _uses(split, results[name]) for name, split in opened.items()}
    first = train if train is not None and train in opened else next(iter(opened))
    categories = opened[first].categories
    for name, split in opened.items():
        different = sorted({each[:3] for each in split.categories} ^ {each[:3] for each in categories})
        if different:
            words = _some(dict.fromkeys(each[0] for each in different))
            message = (
                f"classes of {name} are not those of {first}: {words}; list the same names, ids and kinds in both"
            )
            yield Problem("problem", "classes", name, "", "", message)
    if train in opened:
        shown = {categories[label].name for label in uses[first]}
        for name in parts:
            for label, use in sorted(uses[name].items()):
                word = opened[name].categories[label].name
                if word not in shown:
                    yield _unlearnt(word, name, use, first, broken[first] + broken[""])
    used = {opened[name].categories[label].name for name in opened for label in uses[name]}
    idle = [category.name for category in categories if category.name not in used]
    if idle:
        message = f"classes without a segment in any split, {len(idle)} of {len(categories)}: {_some(idle)}"
        yield Problem("notice", "classes", "", "", "", message)
    gaps = [low + 1 for low, high in pairwise(sorted(category.id for category in categories)) if high > low + 1]
    if gaps:
        message = f"the ids of the classes have gaps, at {_some(gaps)}: in files, ids are not places in the list"
        yield Problem("notice", "classes", "", "", "", message)


def _unlearnt(word: str, name: str, use: _Use, train: str, broken: int) -> Problem:
    """Say that a class is not in the split to train on, or that this cannot be told."""
    place = f"class {word!r} is in {name} (segments: {use.segments}; first in image {use.image_id})"
    if broken:
        message = f"{place}, but in nothing of {train} that can be read; mend its problems ({broken}), and see"
        return Problem("notice", "classes", name, use.file, use.image_id, message)
    message = f"{place}, but not in {train}: it cannot be learnt; divide the images anew, or drop it"
    return Problem("problem", "classes", name, use.file, use.image_id, message)


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
