"""A dataset repository of Hugging Face as a storage backend.

The hub's own client finds the repository, lists it and commits to it. Bytes are read from the hub's file
addresses like those of any web server: exact ranges and bounded streams, which the client's downloads to
whole files do not give.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, disable_progress_bars

from cache_schema.errors import RequestError, StorageError
from cache_schema.storage.backend import BLOCK_BYTES, Limits, ListedFile, StorageBackend
from cache_schema.storage.web_client import BUSY, Retries, WebClient

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from cache_schema.storage.backend import Content, LocalFile

URL = re.compile(r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?/?")
DATASET = "dataset"
"""The type of repository, in the client's words."""
PAUSES_S = (1.0, 5.0, 30.0, 60.0, 120.0, 120.0)
"""Pauses after which a commit is sent again where the hub is busy."""
RETRIES = Retries(16, 60.0)
"""The hub counts requests over five minutes, and answers 429 until they are over."""


class HubBackend(StorageBackend):
    """``hf://datasets/org/name`` or ``hf://datasets/org/name@revision``, read as of one commit.

    Raises:
        RequestError: The URL is of another form.
        StorageError: There is no such repository, or no right to read it.
    """

    # https://huggingface.co/docs/hub/storage-limits
    limits = Limits(files=100_000, entries_per_folder=10_000)
    # About 500 files a commit; parallel commits would contradict each other.
    clips_per_upload = 16
    parallel_uploads = 1
    compares_quickly = True

    def __init__(self, url: str) -> None:
        found = URL.fullmatch(url)
        if found is None:
            raise RequestError(
                f"{url!r} names no dataset repository",
                expected="hf://datasets/org/name or hf://datasets/org/name@revision",
                repair="correct the URL; a dataset is a whole repository, not a folder in one",
            )
        disable_progress_bars()  # the caller shows one for the whole dataset
        super().__init__(url)
        self._repair = (
            "create the repository (`hf repos create --repo-type dataset`), "
            "log in (`hf auth login`) or set HF_TOKEN"
        )
        self._repository = found["repository"]
        self._branch = found["revision"] or "main"
        self._api = HfApi()
        with self.errors():
            self._commit = self._api.dataset_info(self._repository, revision=self._branch).sha
        self._open()

    def _open(self) -> None:
        root = hf_hub_url(self._repository, "x", repo_type=DATASET, revision=self._commit).removesuffix("/x")
        self._client = WebClient(root, repair=self._repair, headers=build_hf_headers(), retries=RETRIES)

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes."""
        yield from self._client.stream(name)

    def read_ranges(self, name: str, nbytes: int, ranges: Sequence[tuple[int, int]]) -> bytes:
        """Return parts of a file, one behind the other."""
        return self._client.ranges(name, nbytes, ranges)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes."""
        with self.errors():
            found = self._api.get_paths_info(self._repository, name, repo_type=DATASET, revision=self._commit)
        return next((entry.size for entry in found if isinstance(entry, RepoFile)), None)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder."""
        return sorted(name.rpartition("/")[2] for name in self._tree(folder, recursive=False))

    def files(self) -> dict[str, ListedFile]:
        """Return every file."""
        return self._tree("", recursive=True)

    def upload(self, stages: Sequence[Mapping[str, Content]]) -> None:
        """Store all stages in one commit, which readers see whole or not at all."""
        additions = [_addition(name, content) for stage in stages for name, content in stage.items()]
        with self.errors():
            for pause_s in (*PAUSES_S, None):
                try:
                    # The client leaves out what is there already, and the parent keeps two pushes apart:
                    # so a commit whose answer was lost is not made twice.
                    self._commit = self._api.create_commit(
                        self._repository,
                        additions,
                        commit_message=f"Add {len(additions)} files",
                        repo_type=DATASET,
                        revision=self._branch,
                        parent_commit=self._commit,
                    ).oid
                    break
                except HfHubHTTPError as error:
                    if pause_s is None or error.response.status_code not in BUSY:
                        raise
                    time.sleep(pause_s)
                except (RuntimeError, ValueError) as error:  # what the client raises where an upload failed
                    raise ConnectionError(f"{error} {error.__cause__ or ''}") from error
        self._open()

    def holds(self, name: str, listed: ListedFile, file: LocalFile) -> bool:
        """Return whether a file of the repository is this one, by the digest that the hub has."""
        if listed.nbytes != file.nbytes or listed.sha256 is not None:
            return listed.nbytes == file.nbytes and listed.sha256 == file.sha256
        digest = hashlib.sha1(b"blob %d\0" % file.nbytes, usedforsecurity=False)
        for block in file.blocks():
            digest.update(block)
        return digest.hexdigest() == listed.etag

    @contextlib.contextmanager
    def errors(self) -> Generator[None]:
        """Turn the exceptions of the hub's client and of the network into ``StorageError``."""
        try:
            yield
        except (HTTPError, RepositoryNotFoundError, ConnectionError) as error:
            raise StorageError(
                f"{self} cannot be used: {' '.join(str(error).split())}",
                expected="a dataset repository that exists, and a token with the rights for this",
                repair=f"{self._repair}; then run the same command again, what is finished is kept",
            ) from error

    def _tree(self, folder: str, *, recursive: bool) -> dict[str, ListedFile]:
        with self.errors():
            try:
                return {
                    entry.path: ListedFile(
                        entry.size, entry.blob_id, None if entry.lfs is None else entry.lfs.sha256
                    )
                    for entry in self._api.list_repo_tree(
                        self._repository,
                        folder or None,
                        recursive=recursive,
                        repo_type=DATASET,
                        revision=self._commit,
                    )
                    if isinstance(entry, RepoFile)
                }
            except EntryNotFoundError:
                return {}


def _addition(name: str, content: Content) -> CommitOperationAdd:
    """Return the operation that adds a file.

    Raises:
        DatasetError: The file is damaged.
    """
    if isinstance(content, bytes):
        return CommitOperationAdd(name, content)
    if content.nbytes <= BLOCK_BYTES:
        return CommitOperationAdd(name, b"".join(content.blocks()))
    addition = CommitOperationAdd(name, content.path)
    # It is read again while it is sent, under the digest that it has now: the hub refuses other bytes.
    if addition.upload_info.sha256.hex() != content.sha256:
        raise content.damaged("holds other bytes than were written")
    return addition
