"""Files of models on the Hugging Face hub: fetched into its cache, found there, checked, removed.

Which models there are is `zoo`'s business, what a file's tensors mean the loader's. The cache is the one that all
users of huggingface_hub share, so HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN mean what they always mean.
Free of torch; huggingface_hub is imported when files are asked for, not before.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from eomt.errors import EomtError, ModelError, ResourceError

__all__ = ["BUNDLED", "BUNDLED_FOLDER", "cached", "fetch", "in_words", "promised", "remove", "verify"]

log = logging.getLogger("eomt")

BUNDLED = "bundled"
"""The name of the model that comes with the package."""
BUNDLED_FOLDER = Path(str(files("eomt") / BUNDLED))
"""Where the model that comes with the package lies."""
SETTINGS_FILES = ("config.json", "preprocessor_config.json")
WHOLE = "model.safetensors"
"""Weights in one file, as transformers names them."""
PICKLE = "pytorch_model.bin"
PART = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")
"""A part of weights that were cut into several files."""
SAVED_ANEW = "transformers_version"
"""transformers writes this key into `config.json` and we do not."""
NETWORK_LIBRARIES = ("httpx2", "httpx", "httpcore", "requests", "urllib3")
"""What versions of huggingface_hub have used to talk; their errors share no base class."""


def in_words(count: int) -> str:
    """Write a number of bytes for people: `1.3 GB`."""
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def cached(repository: str, revision: str | None = None) -> Path | None:
    """Give the folder of a repository's files if all its weights are in the cache. Never uses the network."""
    snapshot = _snapshot(repository, revision)
    there = [file.name for file in snapshot.glob("*") if file.is_file()]  # not a link that leads nowhere
    return snapshot if _weights(there) else None


def fetch(repository: str, revision: str | None = None) -> Path:
    """Give the folder of a repository's `config.json`, `preprocessor_config.json` and weights, with their index.

    What is in the cache is used as it is, without the network; all else is downloaded. Weights are safetensors, or
    `pytorch_model.bin` where there are none. A download that was interrupted goes on where it ended, and weights
    enter the cache only once their sha256 is right. Raises ModelError, or ResourceError for a full disk.
    """
    snapshot = cached(repository, revision)
    if snapshot and all(_is_settled(snapshot, name) for name in _settings(os.listdir(snapshot))):
        return snapshot
    try:
        return _download(repository, revision)
    except _UnreachableError:
        if snapshot is None:
            raise
        log.info("%s cannot be asked for more; using what is in the cache", repository)
        return snapshot


def verify(source: str | Path) -> list[str]:
    """List the files of a model that are not what they were, or that cannot be checked; none is good news.

    `source` is a folder, a repository in the cache, or `bundled`. The cache names files by their checksum, what
    we write names it in `config.json`. Raises ModelError where there is nothing to check.
    """
    folder = BUNDLED_FOLDER if source == BUNDLED else Path(source)
    if not folder.is_dir():
        folder = _snapshot(str(source), None)
    names = sorted(file.name for file in folder.glob("*")) if folder.is_dir() else []
    if not any(name == PICKLE or name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"model {source}: no such folder, and no weights of it are in the cache; nothing to check"
        )
    sums = promised(_config(folder))
    missing = [f"{folder / name}: missing" for name in sums if name not in names]
    checked = (_check(folder / name, sums.get(name)) for name in names)
    return missing + [problem for problem in checked if problem]


def promised(config: Any) -> dict[str, str]:
    """Give the sha256 of each file of weights of which a `config.json` states one.

    Our layout states it under `weights`. In Hugging Face's we state it under `eomt`, which transformers copies
    when it saves other weights in their place: its own key beside it tells.
    """
    match config:
        case {"weights": {"file": str(file), "sha256": str(digest)}}:
            return {file: digest}
        case {"eomt": {"sha256": str(digest)}} if SAVED_ANEW not in config:
            return {WHOLE: digest}
    return {}


def remove(repository: str) -> int:
    """Remove all files of a repository from the cache, begun downloads too; give the bytes that this freed."""
    storage = _storage(repository)
    if not storage.is_dir():
        return 0
    from huggingface_hub import scan_cache_dir

    cache = scan_cache_dir(storage.parent)  # knows about files that repositories share
    models = [repo for repo in cache.repos if repo.repo_id == repository and repo.repo_type == "model"]
    commits = [revision.commit_hash for repo in models for revision in repo.revisions]
    strategy = cache.delete_revisions(*commits)
    freed = strategy.expected_freed_size + _begun(repository)
    strategy.execute()
    shutil.rmtree(storage, ignore_errors=True)
    if storage.exists():
        raise ModelError(f"model {repository}: {storage} cannot be removed; check the permissions")
    return freed


def _storage(repository: str) -> Path:
    """Give the folder that the cache has for a repository. Raises ModelError for a name that cannot be one."""
    owner, _, name = repository.partition("/")
    if not all(re.fullmatch(r"\w[\w.-]*", part) for part in (owner, name)) or re.search(r"--|\.\.", repository):
        raise ModelError(f"model {repository}: no name of a repository; expected OWNER/NAME (see eomt models ls)")
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{owner}--{name}"


def _snapshot(repository: str, revision: str | None) -> Path:
    """Give the folder that the cache has, or would have, for a revision: a branch, a tag or a commit."""
    storage, revision = _storage(repository), revision or "main"
    try:
        commit = (storage / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision
    return storage / "snapshots" / commit


def _is_settled(snapshot: Path, name: str) -> bool:
    """Tell whether a file is there, or known not to exist."""
    return (snapshot / name).is_file() or (snapshot.parent.parent / ".no_exist" / snapshot.name / name).is_file()


def _weights(names: Iterable[str]) -> list[str]:
    """Choose the files of weights among a repository's; none when a part of a file that was cut is missing."""
    names = set(names)
    chosen = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    for part in filter(None, map(PART.fullmatch, chosen)):
        stem, digits, count = part[1], len(part[2]), part[3]
        if any(
            f"{stem}-{index:0{digits}}-of-{count}.safetensors" not in names for index in range(1, int(count) + 1)
        ):
            return []
    return chosen or ([PICKLE] if PICKLE in names else [])


def _settings(names: Iterable[str]) -> list[str]:
    """Name the small files to have beside those given: the settings, and of parts the index."""
    stems = {part[1] for part in map(PART.fullmatch, names) if part}
    return [*SETTINGS_FILES, *(f"{stem}.safetensors.index.json" for stem in sorted(stems))]


class _UnreachableError(ModelError):
    """The hub cannot be reached, or does not answer."""


def _download(repository: str, revision: str | None) -> Path:
    """Bring a repository's files into the cache, weights last: where these are, the rest is."""
    with _explained(repository, revision):
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        listed = {file.rfilename: file for file in info.siblings or ()}
        weights = _weights(listed)
        if not weights or not info.sha:
            there = ", ".join(sorted(listed)[:8]) or "nothing"
            raise ModelError(
                f"model {repository}: the repository has no *.safetensors and no {PICKLE} (it has {there}); "
                "choose another"
            )
        settings = _settings(weights)
        _announce(repository, {name: listed[name].size or 0 for name in (*settings, *weights) if name in listed})
        for name in settings:
            try:
                hf_hub_download(repository, name, revision=revision)
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:  # and the cache keeps in mind that there is none
                continue
        for name in weights:
            lfs = listed[name].lfs
            if lfs is not None:
                _download_blob(repository, name, info.sha, lfs.sha256, lfs.size)
            snapshot = Path(hf_hub_download(repository, name, revision=revision)).parent
    if snapshot.name != info.sha:
        raise ModelError(f"model {repository}: it was changed while it was fetched; run the same again")
    return snapshot


def _announce(repository: str, sizes: dict[str, int]) -> None:
    """Say what will be fetched, and refuse what the disk cannot hold."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    total = sum(sizes.values())
    log.info("fetching %s into %s: %s (%s)", repository, cache, ", ".join(sizes), in_words(total))
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    if total - _begun(repository) > free:
        raise ResourceError(
            f"model {repository}: {in_words(total)} are to be fetched, but {cache} has {in_words(free)} free; "
            "make room (eomt models rm NAME removes a model), or set HF_HOME to a folder on another disk"
        )


def _begun(repository: str) -> int:
    """Count the bytes of downloads that were not finished."""
    return sum(part.stat().st_size for part in (_storage(repository) / "blobs").glob("*.incomplete"))


def _download_blob(repository: str, name: str, commit: str, sha256: str, size: int) -> None:
    """Put a large file into the cache under its sha256, once that is right; a part that is there is continued.

    huggingface_hub by itself begins anew in each process (2.x) and does not check sums; it finds the file then.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

    storage = _storage(repository)
    blob, part = storage / "blobs" / sha256, storage / "blobs" / f"{sha256}.incomplete"
    lock = Path(constants.HF_HUB_CACHE) / ".locks" / storage.name / f"{sha256}.lock"  # as huggingface_hub's own
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        if part.exists() and part.stat().st_size > size:
            part.unlink()
        with part.open("ab") as file:
            start = file.tell()
            if start:
                log.info("%s: going on after %s of %s", name, in_words(start), in_words(size))
            if start < size:
                url = hf_hub_url(repository, name, revision=commit)
                headers = build_hf_headers()
                http_get(
                    url, file, resume_size=start, headers=headers, expected_size=size, displayed_filename=name
                )
        if _sha256(part) != sha256:
            part.unlink()
            raise ModelError(
                f"model {repository}: {name} came with other content than the repository promises (sha256); "
                "it was thrown away. Run the same again; if it happens again, a proxy or a mirror "
                "(HF_ENDPOINT) changes files"
            )
        os.replace(part, blob)


@contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors that say what to do."""
    try:
        yield
    except EomtError:
        raise
    except Exception as error:
        explained = _explain(error, repository, revision)
        if explained is None:
            raise
        raise explained from error


def _explain(error: Exception, repository: str, revision: str | None) -> EomtError | None:
    from huggingface_hub import constants, errors

    page, where = f"{constants.ENDPOINT}/{repository}", f"model {repository}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{where}: it has no revision {revision}; {page} lists branches, tags and commits")
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return ModelError(
            f"{where}: access is gated; its owner asks for agreement with the licence first\n"
            f"1. Open {page} in a browser, log in and accept the licence (it may take time to be granted).\n"
            "2. hf auth login, or set HF_TOKEN, with a token of the same account.\n"
            "3. Run the same again."
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return ModelError(
            f"{where}: there is no such repository at {constants.ENDPOINT}, or it is private; check the name "
            "(eomt models ls lists the published ones), and for a private one: hf auth login"
        )
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"{where}: the disk of {constants.HF_HUB_CACHE} is full; make room "
            "(eomt models rm NAME removes a model) or set HF_HOME to another disk, then run the same again"
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ModelError(
            f"{where}: the cache {constants.HF_HUB_CACHE} cannot be written ({error}); "
            "set HF_HOME to a folder of yours"
        )
    return _UnreachableError(_unreachable(error, repository)) if _is_network(error) else None


def _is_network(error: Exception) -> bool:
    """Tell whether the connection failed: an error of the library below, or one without a number of the system."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno is None:
        return True
    return any(kind.__module__.partition(".")[0] in NETWORK_LIBRARIES for kind in type(error).__mro__)


def _unreachable(error: Exception, repository: str) -> str:
    """Say why nothing comes, and what is kept."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return f"model {repository}: not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to fetch it"
    cause = (str(error).splitlines() or [""])[0] or type(error).__name__
    begun = _begun(repository)
    if begun:
        return (
            f"model {repository}: the download was interrupted ({cause}); {in_words(begun)} are kept, "
            "and the same command goes on from there"
        )
    return (
        f"model {repository}: not in the cache, and {constants.ENDPOINT} cannot be reached ({cause}); check "
        "the network and the proxy (HTTPS_PROXY), or set HF_ENDPOINT to a mirror. Without a network: copy the "
        f"folder {_storage(repository).name} from a machine that has it into {constants.HF_HUB_CACHE}"
    )


def _config(folder: Path) -> Any:
    """Read `config.json`; None where it is absent or cannot be read, and so promises nothing."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _check(file: Path, promised: str | None) -> str | None:
    """Compare a file with its checksum; say what is wrong."""
    # One link only: further ones lead to a store that names files otherwise.
    expected = promised or (Path(os.readlink(file)).name if file.is_symlink() else "")
    try:
        if re.fullmatch(r"[0-9a-f]{64}", expected):
            actual = _sha256(file)
        elif re.fullmatch(r"[0-9a-f]{40}", expected):
            actual = _git_sha1(file)
        elif file.name == PICKLE or file.suffix == ".safetensors":
            return f"{file}: no checksum of it is known, so it cannot be checked"
        else:
            return None
    except OSError as error:
        return f"{file}: cannot be read ({error.strerror})"
    return (
        None
        if actual == expected
        else f"{file}: its content has changed (checksum {actual[:8]}, not {expected[:8]})"
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _git_sha1(file: Path) -> str:
    """Compute the name that git gives to a file's content: small files of a repository are named so."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
