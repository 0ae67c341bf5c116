"""Where a checkpoint is: in a folder, or in a repository on a hub, of which the files that are needed are fetched.

Owns the way to a hub, and one line for each way in which it fails. What is fetched lies in huggingface_hub's cache,
each file whole or not at all; HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE and HF_HUB_OFFLINE are that library's.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, get_cached_repo_tree, get_token, metadata_load
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from training import folders
from training.checkpoints import stored
from training.checkpoints.configs import RECIPE_FILE
from training.checkpoints.stored import Shape
from training.errors import CheckpointError, TrainingError
from training.tokenizers.loading import BESIDE, FILES

CARD = "README.md"
"""A repository's card: its front matter names the licence and the base model."""
ADAPTER = "adapter_config.json"
BEFORE_WEIGHTS = (
    folders.CONFIG,
    folders.SENTENCE_TRANSFORMERS,
    ADAPTER,
    RECIPE_FILE,
    CARD,
    *FILES,
    *BESIDE,
    *stored.INDICES,
)
"""What is fetched of a repository at once: all that is read of it but the weights."""
LACKING = "it is not in the cache"


class Source:
    """A checkpoint in a folder.

    Attributes:
        name: as it was asked for.
        folder: where its files lie; of a repository, those that have been fetched.
        commit: of a repository, in full; empty for a folder.
    """

    commit = ""

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = str(folder), folder

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file of weights that is to be read. Raises `CheckpointError` for none."""
        return {path.name: path.stat().st_size for path in stored.files(self.folder)}

    def shapes(self) -> dict[str, Shape] | None:
        """Return the shape of each weight by name; None where that would take fetching the weights.

        Raises:
            CheckpointError: there are none, or they cannot be read.
        """
        return stored.shapes(self.folder)

    def whole(self) -> Path:
        """Return the folder with the weights in it. Raises `CheckpointError` where they cannot be fetched."""
        return self.folder

    def described(self) -> dict[str, Any]:
        """Return what the front matter of the checkpoint's own card says; empty where it has none."""
        card = self.folder / CARD
        try:
            return metadata_load(card) or {} if card.is_file() else {}
        except Exception:  # of a card that is no YAML, anything: it describes nothing
            return {}

    @contextmanager
    def named(self) -> Iterator[None]:
        """Have errors call the checkpoint by its name, wherever its files lie."""
        try:
            yield
        except TrainingError as error:
            said = str(error).replace(str(self.folder), self.name)
            if said == str(error):
                raise
            raise type(error)(said) from error


class Repository(Source):
    """A checkpoint in a repository on a hub. Making one fetches all but the weights.

    Raises:
        CheckpointError: it cannot be fetched, and is not in the cache: why, and what to do.
    """

    def __init__(self, name: str, revision: str = "") -> None:
        self.name, self._api = name, HfApi()
        with self._told(revision):
            self._revision = self._api.resolve_revision(name, revision=revision or None)
            self.commit = self._revision.resolved
            self.folder = self._fetched(*BEFORE_WEIGHTS)
            self._files = self._listed()

    def sizes(self) -> dict[str, int]:
        chosen = next((name for name in stored.LOOKED if name in self._files), None)
        if chosen is None:
            held = ", ".join(list(self._files)[: folders.LISTED]) or "nothing"
            raise CheckpointError(
                f"{self.name} has no weights that can be read: looked for {', '.join(stored.LOOKED)}; it holds {held}. "
                f"Fetch it whole (hf download {self.name} --local-dir FOLDER) and check that folder: it says how to "
                "convert them"
            )
        names = stored.shards(self.folder / chosen) if chosen in stored.INDICES else [chosen]
        if missing := [name for name in names if name not in self._files]:
            raise CheckpointError(f"{self.name} has no {', '.join(missing[:3])}, which its {chosen} names")
        return {name: self._files[name] for name in names}

    def shapes(self) -> dict[str, Shape] | None:
        names = list(self.sizes())
        if all((self.folder / name).is_file() for name in names):
            return stored.shapes(self.folder)
        if not all(name.endswith(".safetensors") for name in names):
            return None
        found = {}
        try:
            for name in names:
                header = self._api.parse_safetensors_file_metadata(self.name, name, revision=self.commit)
                found.update({key: Shape(each.dtype, tuple(each.shape)) for key, each in header.tensors.items()})
        except errors.OfflineModeIsEnabled:
            return None
        except errors.SafetensorsParsingError as error:
            raise CheckpointError(
                f"{self.name}: {name} is no safetensors file ({' '.join(str(error).split())})"
            ) from error
        except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
            raise CheckpointError(self._why(error, self._revision)) from error
        return stored.renamed(found, self.folder)

    def whole(self) -> Path:
        with self._told(self._revision, "its weights are not in the cache"):
            return self._fetched(*self.sizes())

    def _fetched(self, *names: str) -> Path:
        return Path(self._api.snapshot_download(self.name, revision=self._revision, allow_patterns=list(names)))

    def _listed(self) -> dict[str, int]:
        """The bytes of each file of the repository; of those in the cache, where no listing was ever fetched."""
        try:
            return {file.path: file.size for file in get_cached_repo_tree(self.name, revision=self._revision)}
        except errors.CachedRepoTreeNotFoundError:
            return {path.name: path.stat().st_size for path in self.folder.iterdir()}

    @contextmanager
    def _told(self, revision: str, lacks: str = LACKING) -> Iterator[None]:
        """Raise a `CheckpointError` for what the library raises."""
        try:
            yield
        except (errors.RevisionResolutionError, errors.LocalEntryNotFoundError) as error:  # the hub's failure is within
            raise CheckpointError(self._why(error.__cause__ or error, revision, lacks)) from error
        except (errors.HTTPError, errors.XetDownloadError, OSError) as error:  # type: ignore[attr-defined]
            raise CheckpointError(self._why(error, revision)) from error

    def _why(self, error: BaseException, revision: str, lacks: str = LACKING) -> str:
        """One line: what is wrong and what to do."""
        name, hub, cache = self.name, constants.ENDPOINT, constants.HF_HUB_CACHE
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
        if isinstance(error, errors.GatedRepoError):
            return f"{name} is gated: ask for access on its page, {hub}/{name}, and set HF_TOKEN to your token"
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{name} has no revision {str(revision) or 'main'!r}: name one of its branches, tags or commits"
        if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not get_token()):
            private = "that HF_TOKEN may read" if get_token() else "that may be read without HF_TOKEN"
            return f"{name} is no folder here, and no repository on {hub} {private}: check the name and the token"
        if isinstance(error, errors.RemoteEntryNotFoundError):
            return f"{name}: a file that the hub lists is not there ({error.response.url}): name another --revision"
        if status == 401:
            return f"{name}: {hub} does not take the token (401): set HF_TOKEN to a valid one, or unset it"
        if status == 403:
            return f"{name}: the token may not read it (403): ask for access on {hub}/{name}, or set another HF_TOKEN"
        if status == 429:
            wait = error.response.headers.get("Retry-After", "")  # type: ignore[attr-defined]
            when = f"in {wait} seconds" if wait.isdigit() else "in a few minutes"
            more = "" if get_token() else "; with HF_TOKEN set more requests are allowed"
            return f"{name}: {hub} was asked too often (429): try again {when}{more}"
        if status:
            return f"{name}: {hub} answers {status}: try again later"
        if isinstance(error, errors.OfflineModeIsEnabled):
            return f"{name} is no folder here, {lacks} ({cache}), and HF_HUB_OFFLINE is set: unset it to fetch {name}"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{name}: the disk is full where the cache is ({cache}): make room, or set HF_HUB_CACHE elsewhere"
        if isinstance(error, OSError) and error.errno and error.filename:
            return f"{name}: the cache cannot be used ({error}): set HF_HUB_CACHE to a folder that can be written"
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError):  # the library's, of a file that came shorter than announced
            return f"{name}: the transfer broke off ({said}): try again; files that came whole are kept"
        if type(error).__name__.startswith("Connect"):
            nobody = f"no hub answers at {hub} ({said})"
            return f"{name} is no folder here, {lacks}, and {nobody}: check the network and HF_ENDPOINT"
        return f"{name}: the transfer from {hub} broke off ({said}): try again; files that came whole are kept"


def find(checkpoint: str | Path, revision: str = "") -> Source:
    """Return where a checkpoint is: a folder if there is one of that name, else a repository, its weights not yet
    fetched.

    Args:
        revision: a branch, a tag or a commit of the repository; the default branch where it is empty.

    Raises:
        CheckpointError: it is neither, or cannot be fetched; or a folder is given with a revision.
    """
    if Path(checkpoint).exists() or not _is_name(str(checkpoint)):
        if revision:
            raise CheckpointError(f"{checkpoint} is no repository on a hub: --revision {revision} says nothing of it")
        return Source(Path(checkpoint))
    return Repository(str(checkpoint), revision)


def _is_name(name: str) -> bool:
    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        return False
    return True
