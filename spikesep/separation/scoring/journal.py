"""Journals of scoring: one line per finished utterance, so that a killed run resumes."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spikesep.files import explain_full_disk, write_text
from spikesep.separation.scoring.inputs import UtteranceKey


def utterance_key(record: dict[str, Any]) -> UtteranceKey:
    """Return the key of a record."""
    return record["mode"], record["condition"], record["utt"]


def journal_path(exp: Path, shard: str | None) -> Path:
    """Return the path of the journal of a shard, such as `2of8`, or of a run without shards."""
    return exp / ("scores.partial.jsonl" if shard is None else f"scores.partial.{shard}.jsonl")


def find_journals(exp: Path) -> list[Path]:
    """List the journals of all shards and of a run without shards."""
    return sorted({journal_path(exp, None), *exp.glob("scores.partial*.jsonl")})


def read_journal(path: Path, key: str) -> dict[UtteranceKey, dict[str, Any]]:
    """Read the finished records; empty if the journal belongs to other inputs.

    A last line without a line break was interrupted and is left out.
    """
    if not path.is_file():
        return {}
    records = []
    for line in path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]:
        try:
            records.append(json.loads(line))
        except ValueError:
            records.append(None)
    if not records or not records[0] or records[0].get("key") != key:
        return {}
    return {utterance_key(record): record for record in records[1:] if record}


def read_journals(paths: Iterable[Path], key: str) -> dict[UtteranceKey, dict[str, Any]]:
    """Merge the finished records of several journals."""
    finished: dict[UtteranceKey, dict[str, Any]] = {}
    for path in paths:
        finished |= read_journal(path, key)
    return finished


def remove_journals(paths: Iterable[Path]) -> None:
    """Delete journals, which are of no use once scoring is complete."""
    for path in paths:
        path.unlink(missing_ok=True)


@contextmanager
def open_journal(
    path: Path, key: str, finished: dict[UtteranceKey, dict[str, Any]]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Rewrite the journal with the finished records; yield a function that appends one durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ({"key": key}, *finished.values())
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    with explain_full_disk(path), path.open("a", encoding="utf-8") as file:

        def append(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

        yield append
