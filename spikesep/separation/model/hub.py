"""Lookup of separators: local folders and files, shipped models, and the Hugging Face hub.

Downloaded models are read by `spikesep.training.records.model_folder`, which executes nothing.
"""

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from spikesep import __version__
from spikesep.errors import SpikeSepError
from spikesep.separation.model.separator import KIND, load_separator, save_separator
from spikesep.separation.tracks.embedder import KIND as TRACKS_KIND
from spikesep.separation.tracks.embedder import load_embedder, save_embedder
from spikesep.training.records.model_files import CARD, CONFIG, REPORT, TENSORS
from spikesep.training.records.model_folder import read_model, read_settings

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Folder of the shipped models, each an experiment with `snn` and `ann`. The first by name other
than `LIVE` is the default."""
LIVE = "live"
"""Name of the shipped model that is the default of live streams, if there is one."""
HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
"""`org/name` or `org/name@revision`."""
TRACKS = "tracks"
"""Folder of the embedder that tells speakers apart: in a model folder, or beside it."""
LOG_IN = "log in (`hf auth login`, or HF_TOKEN)"


def find_model(
    name: str | Path | None = None, network: Literal["snn", "ann"] | None = None
) -> Path:
    """Find the folder or file of a separator; download it from the hub if it cannot be local.

    Args:
        name: a model folder or `.safetensors` file; an experiment, which contains `snn` and `ann`;
            the name of a shipped model; or `org/name` on the hub, with `@revision` for a branch,
            tag or commit. None for the default shipped model.
        network: which network of an experiment; by default the spiking one, if present.

    Raises:
        SpikeSepError: there is none; the message says where it was looked for.
    """
    if name is None:
        return _find_in_experiment(_shipped()[default_name()], network)
    shipped = _shipped()
    path = Path(name)
    path = shipped[str(name)] if str(name) in shipped and not path.exists() else path
    if path.is_file() or (path / CONFIG).is_file():
        return path
    if path.is_dir():
        return _find_in_experiment(path, network)
    hub_name = HUB_NAME.fullmatch(str(name))
    missing = f"{name}: contains no model: no such folder or file"
    if hub_name and not Path(hub_name[1]).parent.is_dir():
        repository, revision = hub_name.groups()
        return _download(repository, revision, f"{missing} here, and on the hub")
    hub = "not a name on the hub (org/name)"
    if hub_name:
        hub = f"not looked up on the hub, as {Path(hub_name[1]).parent} is a folder here"
    raise SpikeSepError(f"{missing}, not among the shipped ({', '.join(shipped) or 'none'}), {hub}")


def find_tracks(model: Path) -> Path | None:
    """Find the embedder that belongs to a model folder or file, if there is one."""
    for folder in (model / TRACKS, model.parent / TRACKS):
        if (folder / CONFIG).is_file():
            return folder
    return None


def push_to_hub(path: str | Path, name: str, private: bool = False) -> str:
    """Upload a separator to the Hugging Face hub, and return its URL.

    Args:
        path: a model folder or file; its card becomes the page of the repository.
        name: repository, `org/name`; created if missing.
        private: create the repository as a private one.

    Raises:
        SpikeSepError: the separator is incomplete, or the hub rejects it.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    match = HUB_NAME.fullmatch(name)
    if match is None or match[2]:
        raise SpikeSepError(f"{name}: is not a name on the hub; give it as org/name")
    model, saved, api = load_separator(path), read_model(path, KIND), _api()
    try:
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            save_separator(model, folder, saved.report, saved.card)
            if tracks := find_tracks(Path(path)):
                embedder, own = load_embedder(tracks), read_model(tracks, TRACKS_KIND)
                save_embedder(embedder, folder / TRACKS, own.report, own.card)
            url = api.create_repo(name, private=private or None, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model of SpikeSep")
    except HfHubHTTPError as error:
        remedy = "give the same command again later"
        if error.response.status_code in (401, 403):
            remedy = f"{LOG_IN} as a user who may write there"
        raise SpikeSepError(
            f"{name}: the hub rejects the upload ({_first_line(error)}); {remedy}"
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        raise SpikeSepError(
            f"{name}: cannot be uploaded to the hub ({_first_line(error)}); check your connection "
            f"and {LOG_IN}"
        ) from error
    return str(url)


def _shipped() -> dict[str, Path]:
    return {
        path.parents[1].name: path.parents[1] for path in sorted(PRETRAINED.glob(f"*/snn/{CONFIG}"))
    }


def default_name(live: bool = False) -> str:
    """Return the name of the shipped model to take if none is given.

    Args:
        live: for sound that is separated while it arrives: `LIVE` if it is shipped.

    Raises:
        SpikeSepError: no model is shipped.
    """
    shipped = _shipped()
    if live and LIVE in shipped:
        return LIVE
    for name in sorted(shipped, key=lambda name: (name == LIVE, name)):
        return name
    raise SpikeSepError(
        "--model: this installation has no shipped model; give a model folder or file, exp/<tag> "
        "of a recipe, or org/name on the hub"
    )


def _find_in_experiment(folder: Path, network: Literal["snn", "ann"] | None) -> Path:
    for kind in [network] if network else ["snn", "ann"]:
        if (folder / kind / CONFIG).is_file():
            return folder / kind
    raise SpikeSepError(
        f"{folder}: contains no {network or 'model'}; give a folder with {CONFIG}, or the "
        "exp/<tag> folder of a recipe that has finished"
    )


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="spikesep", library_version=__version__)


def _download(repo: str, revision: str | None, missing: str) -> Path:
    """Download a model into the cache of the hub, or take the cached copy, and return its folder.

    The settings are downloaded and checked first, so that nothing large is fetched in vain.

    Args:
        repo: `org/name`.
        revision: branch, tag or commit; None for the main branch.
        missing: beginning of the error message.
    """
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    api, name = _api(), f"{repo}@{revision}" if revision else repo
    offline = _offline_reason(api, repo, revision, missing)
    folder = Path()
    try:
        for files in ([CONFIG], [CONFIG, TENSORS, REPORT, CARD, f"{TRACKS}/*"]):
            folder = Path(
                api.snapshot_download(
                    repo,
                    revision=revision,
                    allow_patterns=files,
                    local_files_only=offline is not None,
                )
            )
            if not (folder / CONFIG).is_file():
                raise SpikeSepError(
                    f"{name}: is on the hub, but not a model of SpikeSep: it has no {CONFIG}"
                )
            read_settings(folder, KIND)
    except LocalEntryNotFoundError as error:
        raise SpikeSepError(
            f"{missing} it could not be looked up: {offline}, and the cache has no complete copy "
            "of it; go online once, or give a folder or file"
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        raise SpikeSepError(
            f"{name}: cannot be downloaded ({_first_line(error)}); give the same command again"
        ) from error
    commit = folder.name[:12]
    source = f"revision {commit} of the hub"
    if offline is not None:
        source = f"{offline}; using the cached revision {commit}"
    print(f"{name}: {source}", file=sys.stderr)
    return folder


def _offline_reason(api: "HfApi", repo: str, revision: str | None, missing: str) -> str | None:
    """Ask the hub whether a model exists; if the hub does not answer, return why.

    Raises:
        SpikeSepError: the hub answers that it has no such model, or requires a login.
    """
    from huggingface_hub import is_offline_mode
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        RevisionNotFoundError,
    )

    try:
        api.model_info(repo, revision=revision)
    except HfHubHTTPError as error:
        if error.response.status_code >= 500:
            return f"the hub is out of order ({_first_line(error)})"
        if isinstance(error, GatedRepoError):
            reason = f"a gated model; accept its terms on its page and {LOG_IN}"
        elif isinstance(error, RevisionNotFoundError):
            reason = f"no revision {revision} of it"
        else:
            reason = f"no model of that name that you may read; if it is private, {LOG_IN}"
        raise SpikeSepError(f"{missing} {reason}") from error
    except ValueError as error:
        raise SpikeSepError(f"{missing} the name is invalid ({_first_line(error)})") from error
    except (HTTPError, OSError) as error:
        if is_offline_mode():
            return "HF_HUB_OFFLINE is set"
        return f"the hub cannot be reached ({_first_line(error)})"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
