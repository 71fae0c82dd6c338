"""Records on disk: one JSON file a cell, written atomically, checked against the schema when read."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from bench.config.aliases import record_from_schema_1
from bench.errors import UsageError
from bench.records.conditions import distinct
from bench.records.record import SCHEMA_VERSION, Record

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SUFFIX = ".json"
T = TypeVar("T")


class Store:
    """The records of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(self) -> None:
        """Refuses a folder that can't be used, before it is made.

        Raises:
            UsageError: something else is in its place or on the way there, or it can't be written to.
        """
        for place in (self.folder, *self.folder.absolute().parents):
            try:
                if not place.exists():
                    continue
                if place.is_dir():
                    with tempfile.NamedTemporaryFile(dir=place, prefix=".try-"):  # permissions alone don't tell
                        return
                problem = "is not a folder"
            except OSError as error:
                problem = f"can't be written: {error.strerror}"
            raise UsageError(f"results_dir={self.folder}: {place} {problem}; choose another")

    def open(self) -> None:
        """Makes the folder and tries it.

        Raises:
            UsageError: it can't be made or written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".try-"):
                pass
        except OSError as error:
            raise UsageError(f"results_dir={self.folder} can't be written: {error.strerror}; choose another") from error

    def read(self) -> dict[str, Record]:
        """Every record of the folder by cell id.

        Raises:
            UsageError: a file is torn, edited or of a newer schema.
        """
        return {record.cell_id: record for record in self.records()}

    def records(self) -> list[Record]:
        """What each file of the folder holds: a cell twice, if it was copied there under another name.

        Raises:
            UsageError: a file is torn, edited or of a newer schema.
        """
        try:
            paths = sorted(self.folder.glob(f"*{SUFFIX}"))
        except OSError as error:
            raise UsageError(f"{self.folder} can't be read: {error.strerror}") from error
        return [read_record(path) for path in paths]

    def write(self, record: Record) -> Path:
        """Writes beside the old file and replaces it in one step, so that no reader ever sees half a record.

        Raises:
            ValueError: a metric is not a finite number.
            UsageError: the disk is full, or the folder went away.
        """
        path = self.folder / f"{record.cell_id}{SUFFIX}"
        write_json(path, record)
        return path


def replace_file(path: Path, content: bytes) -> None:
    """Puts ``content`` where ``path`` is in one step: whoever reads finds the old file or the new one, whole."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".write-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_record(path: Path) -> Record:
    """One record.

    Raises:
        UsageError: naming the file and what is wrong with it.
    """
    record = read_json(path, Record, SCHEMA_VERSION, record_from_schema_1, "record")
    if record.cell.id != record.cell_id:
        raise UsageError(f"{path} was changed by hand: its configuration is that of {record.cell.id}; move it away")
    return record


def read_json(path: Path, kind: type[T], version: int, upgrade: Callable[[dict[str, Any]], Any], what: str) -> T:
    """A stored dataclass, validated strictly: every key is known, and every type is right.

    ``upgrade`` gives the content of a file of the schema before ``version`` in the words of ``version``.

    Raises:
        UsageError: naming the file and what is wrong with it: torn, edited or of another schema.
    """
    try:
        text = path.read_bytes()
        raw: Any = json.loads(text, parse_constant=_refuse)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no {what}: {error}; move it away") from error
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(found, int) or found < 1:
        raise UsageError(f"{path} is no {what}: it has no schema_version; move it away")
    if found > version:
        raise UsageError(f"{path} has schema {found}, newer than {version} of this version: update peft-verdict")
    from pydantic import ValidationError  # takes longer to import than a missing file should take to be refused

    try:
        if found < version:
            text = json.dumps(upgrade(raw)).encode()
        return cast(T, _adapter(cast(Any, kind)).validate_json(text, strict=True))
    except (LookupError, TypeError, AttributeError) as error:  # an upgrade reads what is not validated yet
        raise UsageError(f"{path} is no valid {what} of schema {found}: {error!r}; move it away") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the top level"
        raise UsageError(f"{path} is no valid {what}: {where}: {first['msg']}; move it away") from error


def write_json(path: Path, content: Any) -> None:
    """Writes a dataclass in one step; the folder is made where it is missing.

    Raises:
        ValueError: a number in it is not finite.
        UsageError: it can't be written.
    """
    text = json.dumps(dataclasses.asdict(content), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # names of files may hold bytes that are no text, and a reason may hold such a name
        replace_file(path, (text + "\n").encode(errors="replace"))
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}; what was recorded before is kept") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def read_paths(paths: Iterable[Path]) -> list[Record]:
    """The records of files and folders, each experiment once: of two of the same identity the later one.

    A cell that was measured on two machines, or with other versions, has a record for each
    (`bench.records.conditions.identity`).

    Raises:
        UsageError: a path is not there, or holds no records.
    """
    found: list[Record] = []
    for path in paths:
        try:
            exists, folder = path.exists(), path.is_dir()
        except OSError as error:
            raise UsageError(f"{path} can't be read: {error.strerror}") from error
        if not exists:
            raise UsageError(f"{path} does not exist: give a record or a folder of records")
        records = Store(path).records() if folder else [read_record(path)]
        if not records:
            raise UsageError(f"{path} holds no records: run a sweep first, python -m bench multirun")
        found += records
    return distinct(found)
