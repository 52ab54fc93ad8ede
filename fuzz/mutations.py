"""Damage files: their bytes, and what stands in them: JSON, XML, YAML and other text, PNG, zip and tar.

All chance comes from the generator that is given, so that a case can be made again.
"""

import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from random import Random
from typing import Any

from fuzz.kind import Changes, Files

__all__ = ["mutate_bytes", "mutate_file", "mutate_files"]

NUMBERS = (
    *("-1", "0", "1", "2", "0.5", "-0.0", "1e-320", "1e999", "-1e308", "NaN", "-Infinity", "255", "256", "65536"),
    *("2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808", "-2147483649"),
    *("1" + "0" * 400, "1" + "0" * 5000, "0x10", "1_000", "٣", "1,5", "true", "null"),
)
WORDS = (
    *(
        "",
        " ",
        ".",
        "..",
        "\0",
        "\n",
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\a.png",
        "a/b/c",
        "%s{0}",
        "a" * 5000,
    ),
    *("é", "e\u0301", "\u202eabc", "\ud800", "🙂" * 300, "[]", "{}", "-1", "1e999", "nan", "true", "=", "\ufeff"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 255, 256, 2**31, 2**32, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308),
    *(float("nan"), float("inf"), float("-inf"), [], {}, [[]], [None], [0] * 5000, {"a": {"b": []}}, *WORDS),
)
BOMB = "[" + ", ".join(f"&b{n} [" + ", ".join([f"*b{n - 1}" if n else "x"] * 9) + "]" for n in range(9)) + "]"
ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x" * 10}">' for n in range(9))


def mutate_files(chance: Random, files: Files, preferred: Callable[[str], bool] | None = None) -> Changes:
    """Damage one file, now and then two; mostly of those preferred. Seldom, one goes, or is another's content."""
    names = sorted(files)
    chosen = [name for name in names if preferred is None or preferred(name)] or names
    changes: Changes = {}
    for _ in range(1 + (chance.random() < 0.2)):
        name = chance.choice(chosen if chance.random() < 0.9 else names)
        rare = chance.random()
        if rare < 0.01:
            changes[name] = None
        elif rare < 0.03:
            changes[name] = files[chance.choice(names)]
        else:
            changes[name] = mutate_file(chance, name, files[name])
    return changes


def mutate_file(chance: Random, name: str, data: bytes) -> bytes:
    """Damage a file as its suffix suggests, or its bytes."""
    by_suffix = MUTATIONS.get(PurePosixPath(name).suffix.lower())
    return mutate_bytes(chance, data) if by_suffix is None or chance.random() < 0.3 else by_suffix(chance, data)


def mutate_bytes(chance: Random, data: bytes) -> bytes:
    """Flip, overwrite, cut, repeat, move and insert bytes, a few times."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        data = chance.choice(BYTE_CHANGES)(chance, data)
    return data


def _span(chance: Random, data: bytes, most: int = 64) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.randint(1, chance.choice((4, most, len(data) + 1))))


def _flip(chance: Random, data: bytes) -> bytes:
    place = chance.randrange(len(data) + 1)
    return (
        data[:place]
        + bytes(byte ^ 1 << chance.randrange(8) for byte in data[place : place + 1])
        + data[place + 1 :]
    )


def _number(chance: Random, data: bytes) -> bytes:
    """Overwrite bytes by a number at the edge of what they hold, of either byte order."""
    size = chance.choice((1, 2, 4, 8))
    edge = chance.choice(
        (0, 1, 2, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, 2 ** (8 * size - 1) - 1, 1 << 15, 1 << 24)
    )
    value = (edge % 2 ** (8 * size)).to_bytes(size, chance.choice(("little", "big")))
    place = chance.randrange(len(data) + 1)
    return data[:place] + value + data[place + size :]


def _noise(chance: Random, data: bytes) -> bytes:
    start, end = _span(chance, data)
    return data[:start] + chance.randbytes(end - start) + data[end:]


def _cut_short(chance: Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _remove(chance: Random, data: bytes) -> bytes:
    start, end = _span(chance, data)
    return data[:start] + data[end:]


def _repeat(chance: Random, data: bytes) -> bytes:
    start, end = _span(chance, data)
    return (
        data[:start] + data[start:end] * chance.choice((2, 2, 3, 200)) + data[end:]
        if len(data) < 1 << 20
        else data
    )


def _splice(chance: Random, data: bytes) -> bytes:
    (start, end), place = _span(chance, data), chance.randrange(len(data) + 1)
    return data[:place] + data[start:end] + data[place + (end - start) * chance.randrange(2) :]


BYTE_CHANGES = (_flip, _flip, _number, _number, _noise, _cut_short, _remove, _repeat, _splice)


class _Again(str):
    """A key that may stand in an object twice."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def mutate_json(chance: Random, data: bytes) -> bytes:
    """Change values, keys and the form of a JSON text."""
    try:
        root = {"": json.loads(data)}
    except ValueError:
        return mutate_bytes(chance, data)
    written: dict[str, str] = {}
    for _ in range(chance.choice((1, 1, 2, 4))):
        place, key = chance.choice(_places(root))
        chance.choice(JSON_CHANGES)(chance, place, key, written)
    text = json.dumps(root[""], ensure_ascii=chance.random() < 0.7)
    for mark, raw in written.items():
        text = text.replace(f'"{mark}"', raw)
    return text.encode("utf-8", "surrogatepass")


def _places(node: Any) -> list[tuple[Any, Any]]:
    """List the containers and keys of all values: of long lists, which hold more of the same, only some."""
    keys = list(node) if isinstance(node, dict) else [*range(min(len(node), 4)), *range(4, len(node), 50)]
    places = [(node, key) for key in keys]
    return places + [place for key in keys if isinstance(node[key], dict | list) for place in _places(node[key])]


def _value(chance: Random, place: Any, key: Any, written: dict[str, str]) -> None:
    place[key] = json.loads(json.dumps(chance.choice(VALUES)))  # a copy


def _near(chance: Random, place: Any, key: Any, written: dict[str, str]) -> None:
    """Change a value to another of its type."""
    old = place[key]
    if isinstance(old, bool) or old is None:
        place[key] = not old
    elif isinstance(old, float) or (isinstance(old, int) and abs(old) < 2**100):
        place[key] = chance.choice((old + 1, old - 1, -old, old + 0.5, old * 1000, old * 2**32, float(old), 0))
    elif isinstance(old, int):
        place[key] = -old
    elif isinstance(old, str):
        place[key] = mutate_bytes(chance, old.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    elif isinstance(old, list):
        place[key] = chance.choice(
            (
                old[::-1],
                old[:-1],
                old * 2,
                old[1:],
                [old],
                old[:1] * 300,
                [each for each in old for _ in range(2)],
            )
        )
    else:
        place[key] = chance.choice((list(old), list(old.values()), [old], dict(list(old.items())[1:])))


def _type(chance: Random, place: Any, key: Any, written: dict[str, str]) -> None:
    """Say the same in another type."""
    old = place[key]
    place[key] = chance.choice((str(old), [old], {"0": old}, [old, old], bool(old), json.dumps(old)))


def _gone(chance: Random, place: Any, key: Any, written: dict[str, str]) -> None:
    if "" not in place or key != "":
        del place[key]


def _twice(chance: Random, place: Any, key: Any, written: dict[str, str]) -> None:
    if isinstance(place, list):
        place.append(place[key])
    elif key != "":
        place[_Again(key)] = chance.choice((place[key], *VALUES))


def _renamed(chance: Random, place: Any, key: Any, written: dict[str, str]) -> None:
    if isinstance(place, dict) and key != "":
        other = chance.choice((*WORDS, key.upper(), key + "s", chance.choice(list(place))))
        place[other] = place.pop(key)


def _swapped(chance: Random, place: Any, key: Any, written: dict[str, str]) -> None:
    other = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
    place[key], place[other] = place[other], place[key]


def _raw(chance: Random, place: Any, key: Any, written: dict[str, str]) -> None:
    """Write what `json` itself would not."""
    mark = f"raw {len(written)}"
    depth = chance.choice((500, 100_000))
    written[mark] = chance.choice(
        (*NUMBERS, "[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, '"\\ud800"')
    )
    place[key] = mark


JSON_CHANGES = (_value, _value, _value, _near, _near, _near, _type, _gone, _twice, _renamed, _swapped, _raw)


def mutate_text(chance: Random, data: bytes) -> bytes:
    """Change numbers, words and lines of a text, or its encoding."""
    text = data.decode("utf-8", "replace")
    for _ in range(chance.choice((1, 1, 2, 4))):
        text = chance.choice(TEXT_CHANGES)(chance, text)
    codec = chance.choice(("utf-8",) * 12 + ("utf-8-sig", "utf-16", "latin-1"))
    return text.encode(codec, "surrogatepass" if codec.startswith("utf") else "replace")


def _replaced(pattern: str, values: tuple[str, ...]) -> Callable[[Random, str], str]:
    """Replace one match of a pattern by one of these."""

    def change(chance: Random, text: str) -> str:
        found = list(re.finditer(pattern, text))
        if not found:
            return text
        match = chance.choice(found)
        return text[: match.start()] + chance.choice(values) + text[match.end() :]

    return change


def _line(chance: Random, text: str) -> str:
    lines = text.split("\n")
    place = chance.randrange(len(lines))
    line = lines[place]
    lines[place : place + 1] = chance.choice(
        ([], [line, line], [line] * 300, [line[: len(line) // 2]], ["", line], [line[::-1]])
    )
    return "\n".join(lines)


def _joints(chance: Random, text: str) -> str:
    old, new = chance.choice(
        (("\n", "\r"), ("\n", "\r\n"), (" ", "\t"), (" ", "  "), (",", ";"), (":", "="), ("\n", " "))
    )
    return text.replace(old, new, chance.choice((1, -1)))


TEXT_CHANGES = (
    _replaced(r"-?\d+(\.\d+)?", NUMBERS),
    _replaced(r"-?\d+(\.\d+)?", NUMBERS),
    _replaced(r"[\w./-]+", WORDS),
    _replaced(r"\W", ("", " ", "\n", ",", '"', "'", "[", "{", "&", "*", "!", "#", "\t", "\0", "|", "%")),
    _line,
    _joints,
)


def mutate_yaml(chance: Random, data: bytes) -> bytes:
    """Change a YAML text; seldom, let a value stand for nine times nine times ... others."""
    if chance.random() < 0.2:
        odd = (BOMB, "!!python/object:os.system x", "&a [*a]", "&a {a: *a}", "[" * 5000)
        return _replaced(r"(?<=: ).+", odd)(chance, data.decode("utf-8", "replace")).encode()
    return mutate_text(chance, data)


def mutate_xml(chance: Random, data: bytes) -> bytes:
    """Change attributes, tags and elements of an XML text."""
    text = data.decode("utf-8", "replace")
    for _ in range(chance.choice((1, 1, 2, 4))):
        text = chance.choice(XML_CHANGES)(chance, text)
    return text.encode("utf-8", "surrogatepass")


def _deep(chance: Random, text: str) -> str:
    depth = chance.choice((500, 20_000))
    return _replaced(r"<\w+[^>]*>", ("<a>" * depth + "</a>" * depth,))(chance, text)


def _entities(chance: Random, text: str) -> str:
    start = re.sub(r"<\?xml[^>]*>\s*", "", text)
    return f"<!DOCTYPE a [{ENTITIES}]>" + _replaced(r'"[^"]*"', ('"&e8;"', '"&e3;"', '"&none;"'))(chance, start)


XML_CHANGES = (
    _replaced(r'(?<==")[^"]*(?=")', tuple(re.sub('[&<"]', "", word) for word in (*NUMBERS, *WORDS))),
    _replaced(r'(?<==")[^"]*(?=")', NUMBERS),
    _replaced(r"(?<=>)[^<]+(?=<)", tuple(re.sub("[&<]", "", word) for word in (*NUMBERS, *WORDS))),
    _replaced(r' \w+="[^"]*"', ("",)),
    _replaced(
        r"(?<=<)/?\w+", ("a", "/a", "image", "mask", "polygon", "box", "label", "annotations", "!--", "![CDATA[")
    ),
    _replaced(r"<[^>]*>", ("",)),
    _deep,
    _entities,
    _line,
    lambda chance, text: mutate_text(chance, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace"),
)


def mutate_png(chance: Random, data: bytes) -> bytes:
    """Change chunks of a PNG; their checksums are right, so that what stands in them is looked at."""
    chunks = _chunks(data)
    if not chunks:
        return mutate_bytes(chance, data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        place = chance.randrange(len(chunks))
        kind, content = chunks[place]
        what = chance.randrange(6)
        if what == 0 and kind == b"IHDR":
            size = [chance.choice((0, 1, 7, 5000, 19_000, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
            keep = chance.randrange(3)
            content = (
                b"".join(content[4 * n : 4 * n + 4] if keep == n else struct.pack(">I", size[n]) for n in (0, 1))
                + content[8:]
            )
            chunks[place] = kind, content
        elif what == 1 and kind in (b"IDAT", b"zTXt", b"iCCP"):
            chunks[place] = (
                kind,
                zlib.compress(chance.choice((mutate_bytes(chance, _inflated(content)), bytes(1 << 20)))),
            )
        elif what == 2:
            chunks[place : place + 1] = chance.choice(
                ([], [(kind, content)] * 2, [(b"IDAT", b""), (kind, content)])
            )
        elif what == 3:
            other = chance.randrange(len(chunks))
            chunks[place], chunks[other] = chunks[other], chunks[place]
        elif what == 4:
            kind = chance.choice(
                (b"tRNS", b"PLTE", b"eXIf", b"iTXt", b"zTXt", b"iCCP", b"gAMA", b"acTL", b"fcTL", b"fdAT", b"sBIT")
            )
            text = (
                b"a\0\0" + zlib.compress(bytes(1 << 24))
                if kind in (b"zTXt", b"iCCP")
                else chance.randbytes(chance.choice((0, 3, 30, 800)))
            )
            chunks.insert(place, (kind, text))
        else:
            chunks[place] = kind, mutate_bytes(chance, content)
        if not chunks:
            break
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], 8
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return chunks


def _inflated(content: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, 1 << 20)
    except zlib.error:
        return content


def mutate_zip(chance: Random, data: bytes) -> bytes:
    """Change numbers and names in the headers of a zip."""
    headers = [match.start() for match in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06|\x06[\x06\x07])", data)]
    for _ in range(chance.choice((1, 1, 2, 4))):
        if not headers:
            break
        start = chance.choice(headers)
        header = chance.choice(BYTE_CHANGES[:4])(
            chance, data[start + 4 : start + 64]
        )  # none changes its length but at the end
        data = data[: start + 4] + header[:60] + data[start + 64 :]
    return data if chance.random() < 0.8 else mutate_bytes(chance, data)


def mutate_tar(chance: Random, data: bytes) -> bytes:
    """Change fields of a tar's headers; their checksums are right."""
    headers = [start for start in range(0, len(data) - 511, 512) if data[start + 257 : start + 262] == b"ustar"]
    for _ in range(chance.choice((1, 1, 2, 4))):
        if not headers:
            break
        start = chance.choice(headers)
        header = bytearray(data[start : start + 512])
        place, size = chance.choice(
            ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
        )
        odd = (
            b"0" * size,
            b"7" * size,
            b"\x80" + b"\xff" * size,
            b"\xff" * size,
            b"-1",
            b"../a",
            b"/a",
            chance.randbytes(size),
        )
        kinds = tuple(bytes([kind]) for kind in b"0123456567xgLKSDV\0")
        value = chance.choice(kinds if size == 1 else odd)[:size]
        header[place : place + size] = value + b"\0" * (size - len(value))
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        data = data[:start] + bytes(header) + data[start + 512 :]
    return data if chance.random() < 0.8 else mutate_bytes(chance, data)


MUTATIONS: dict[str, Callable[[Random, bytes], bytes]] = {
    ".json": mutate_json,
    ".xml": mutate_xml,
    ".yaml": mutate_yaml,
    ".yml": mutate_yaml,
    ".txt": mutate_text,
    ".csv": mutate_text,
    ".png": mutate_png,
    ".zip": mutate_zip,
    ".tar": mutate_tar,
}
