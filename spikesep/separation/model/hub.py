"""Where a separator comes from: a folder, a file, an experiment, the one that is shipped, or the Hugging Face hub; and
how it gets onto the hub. What comes from elsewhere is read by `spikesep.training.model_folder`, which runs nothing.
"""

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from spikesep import __version__
from spikesep.errors import SpikeSepError
from spikesep.separation.model.separator import KIND, load_separator, save_separator
from spikesep.training.records.model_files import CARD, CONFIG, REPORT, TENSORS
from spikesep.training.records.model_folder import read_model, read_settings

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Models that are shipped, each an experiment's `snn` and `ann`; the first by name is the default."""
HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
LOG_IN = "log in (`hf auth login`, or HF_TOKEN)"


def find_model(
    name: str | Path | None = None, network: Literal["snn", "ann"] | None = None
) -> Path:
    """The folder or file of a separator. What is here comes first, and only what cannot be here is asked of the hub.

    Args:
        name: a model folder or `.safetensors` file; an experiment, which holds `snn` and `ann`; the name of a shipped
            model; or `org/name` of the hub, with `@revision` for a branch, tag or commit. None: the shipped model.
        network: which of an experiment's; by default the spiking one, if there.

    Raises:
        SpikeSepError: there is none; the message says where it was looked for.
    """
    if name is None:
        return _of_experiment(_shipped_default(), network)
    shipped = _shipped()
    path = Path(name)
    path = shipped[str(name)] if str(name) in shipped and not path.exists() else path
    if path.is_file() or (path / CONFIG).is_file():
        return path
    if path.is_dir():
        return _of_experiment(path, network)
    on_hub = HUB_NAME.fullmatch(str(name))
    looked = f"{name}: holds no model: no such folder or file"
    if on_hub and not (folder := Path(on_hub[1]).parent).is_dir():
        return _from_hub(*on_hub.groups(), f"{looked} here, and on the hub")
    hub = (
        f"not asked of the hub, as {folder} is a folder here"
        if on_hub
        else "no name on the hub (org/name)"
    )
    raise SpikeSepError(f"{looked}, not among the shipped ({', '.join(shipped) or 'none'}), {hub}")


def push_to_hub(path: str | Path, name: str, private: bool = False) -> str:
    """Put a separator on the Hugging Face hub, which makes the place if it is not there; returns its address.

    Args:
        path: a model folder or file; its card becomes the page.
        name: `org/name`.
        private: of a place that is made now.

    Raises:
        SpikeSepError: it is not a whole separator, or the hub does not take it.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    match = HUB_NAME.fullmatch(name)
    if match is None or match[2]:
        raise SpikeSepError(f"{name}: is no name on the hub; give it as org/name")
    model, saved, api = load_separator(path), read_model(path, KIND), _api()
    try:
        with TemporaryDirectory() as scratch:
            save_separator(model, Path(scratch) / "model", saved.report, saved.card)
            place = api.create_repo(name, private=private or None, exist_ok=True)
            api.upload_folder(
                repo_id=name,
                folder_path=Path(scratch) / "model",
                commit_message="Model of SpikeSep",
            )
    except HfHubHTTPError as error:
        refused = error.response.status_code in (401, 403)
        remedy = (
            f"{LOG_IN} as one who may write there"
            if refused
            else "give the same command again later"
        )
        raise SpikeSepError(
            f"{name}: the hub does not take it ({_first_line(error)}); {remedy}"
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        raise SpikeSepError(
            f"{name}: cannot be put on the hub ({_first_line(error)}); {LOG_IN}, be online"
        ) from error
    return str(place)


def _shipped() -> dict[str, Path]:
    return {
        path.parents[1].name: path.parents[1] for path in sorted(PRETRAINED.glob(f"*/snn/{CONFIG}"))
    }


def _shipped_default() -> Path:
    for path in _shipped().values():
        return path
    raise SpikeSepError(
        "--model: this installation has no shipped model; give a model folder or file, exp/<tag> of a recipe, or "
        "org/name of the hub"
    )


def _of_experiment(folder: Path, network: Literal["snn", "ann"] | None) -> Path:
    for kind in [network] if network else ["snn", "ann"]:
        if (folder / kind / CONFIG).is_file():
            return folder / kind
    raise SpikeSepError(
        f"{folder}: holds no {network or 'model'}; give a folder with {CONFIG}, or the exp/<tag> folder of a recipe "
        "that has finished"
    )


def _api():
    from huggingface_hub import HfApi

    return HfApi(library_name="spikesep", library_version=__version__)


def _from_hub(repo: str, revision: str | None, looked: str) -> Path:
    """The folder in the cache; its settings come first, so that nothing large is fetched that cannot be used."""
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    api, name = _api(), f"{repo}@{revision}" if revision else repo
    offline = _why_offline(api, repo, revision, looked)
    try:
        for files in ([CONFIG], [CONFIG, TENSORS, REPORT, CARD]):
            found = api.snapshot_download(
                repo, revision=revision, allow_patterns=files, local_files_only=offline is not None
            )
            if not (Path(found) / CONFIG).is_file():
                raise SpikeSepError(
                    f"{name}: is on the hub, but no model of SpikeSep: it has no {CONFIG}"
                )
            read_settings(Path(found), KIND)
    except LocalEntryNotFoundError as error:
        why = f"{offline}, and the cache has no whole copy of it; be online once, or give a folder or file"
        raise SpikeSepError(f"{looked} nothing could be looked for: {why}") from error
    except (HTTPError, OSError, ValueError) as error:
        raise SpikeSepError(
            f"{name}: cannot be fetched ({_first_line(error)}); give the same command again"
        ) from error
    commit = Path(found).name[:12]
    source = (
        f"the hub's revision {commit}"
        if offline is None
        else f"{offline}; the cached revision {commit} is taken"
    )
    print(f"{name}: {source}", file=sys.stderr)
    return Path(found)


def _why_offline(api, repo: str, revision: str | None, looked: str) -> str | None:
    """Ask the hub for the model: None where it is there, the reason where the hub does not answer."""
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
            reason = f"a model that asks for consent; give it on its page and {LOG_IN}"
        elif isinstance(error, RevisionNotFoundError):
            reason = f"no revision {revision} of it"
        else:
            reason = f"no model of that name that you may read; if it is private, {LOG_IN}"
        raise SpikeSepError(f"{looked} {reason}") from error
    except ValueError as error:
        raise SpikeSepError(f"{looked} no such name can be ({_first_line(error)})") from error
    except (HTTPError, OSError) as error:
        return (
            "HF_HUB_OFFLINE is set"
            if is_offline_mode()
            else f"the hub cannot be reached ({_first_line(error)})"
        )
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
