"""The texts behind a corpus, one document after another, from a :class:`~bench.config.sources.DataConfig`."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets

from bench.config.sources import DataConfig, DataSource, SourceError, is_local
from bench.workload.hub import one_line

# Chosen for being plain Python, of 6 to 50 kB, in each CPython from 3.11 on, and the same on every platform. One that a
# later version drops is simply absent.
STDLIB_MODULES = """
    base64 bdb bz2 calendar cmd code codecs compileall contextlib copy csv dis filecmp fileinput fractions ftplib
    functools getopt gettext glob graphlib gzip hashlib heapq hmac lzma mimetypes modulefinder netrc ntpath numbers
    operator os pkgutil platform plistlib poplib posixpath pprint pstats py_compile pyclbr queue quopri random
    rlcompleter runpy sched selectors shelve shlex smtplib socket socketserver statistics stringprep symtable tabnanny
    tempfile textwrap timeit tokenize trace traceback tracemalloc types uuid warnings wave weakref webbrowser zipapp
    asyncio/locks asyncio/queues asyncio/streams asyncio/tasks concurrent/futures/_base email/generator email/header
    email/message email/utils html/parser http/cookies json/decoder json/encoder logging/config urllib/parse
    urllib/robotparser xml/sax/saxutils wsgiref/validate
""".split()  # noqa: SIM905  # a line a module would be a page
STDLIB_CHARACTERS = 20_000
"""What is kept of each, from its beginning: a few long ones would fill a small corpus."""
FILE_FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
_LOADING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    ImportError,
    RuntimeError,
    datasets.exceptions.DatasetsError,
)
"""What datasets raises for text that cannot be had or read."""


def read_documents(config: DataConfig) -> Iterator[str]:
    """The configured corpus's documents that are not empty, in its own order, each read when it is asked for.

    Raises:
        SourceError: the text cannot be had, or is not text.
    """
    rows: Iterable[Mapping[str, Any]]
    if config.source == DataSource.stdlib:
        column = "text"
        documents = stdlib_documents()
        rows = datasets.Dataset.from_dict({"name": list(documents), column: list(documents.values())})
    else:
        column = config.text_column
        rows = _dataset_rows(config)
    for row in rows:
        if column not in row:
            raise SourceError(
                f"data '{config.name}' at '{config.path}' has no column '{column}': "
                f"set data.text_column to one of {', '.join(sorted(row))}"
            )
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise SourceError(
                f"data '{config.name}' at '{config.path}' holds {type(text).__name__} values in column '{column}', "
                "not text: set data.text_column"
            )
        if text:
            yield text


def stdlib_documents() -> dict[str, str]:
    """Name to text: the topics of Python's manual and the sources of :data:`STDLIB_MODULES`, about 1.8 MB.

    In an order that mixes prose and code and is the same for each Python version, though the texts may differ.

    Raises:
        SourceError: this Python was installed without them.
    """
    try:
        from pydoc_data.topics import topics  # a slim Python may lack it
    except ImportError:
        raise SourceError(
            "this Python has no pydoc_data: install its whole standard library, or use data=dataset"
        ) from None
    folder = Path(sysconfig.get_path("stdlib"))
    sources = {name: folder / f"{name}.py" for name in STDLIB_MODULES}
    texts = {f"manual/{name}": str(text) for name, text in topics.items()}
    texts |= {f"source/{name}": path.read_text(encoding="utf-8") for name, path in sources.items() if path.is_file()}
    order = sorted(texts, key=lambda name: hashlib.sha256(name.encode()).digest())
    return {name: _beginning(texts[name]) for name in order}


def _beginning(text: str) -> str:
    """The text up to the last whole line within :data:`STDLIB_CHARACTERS`."""
    if len(text) <= STDLIB_CHARACTERS:
        return text
    return text[: text.rfind("\n", 0, STDLIB_CHARACTERS) + 1]


def _dataset_rows(config: DataConfig) -> Iterator[Mapping[str, Any]]:
    """The rows of a data set, with every error on the way, also one in the middle of a file, in one line."""
    if config.path is None:
        raise SourceError(f"data '{config.name}' needs a hub id or a local file or folder: set data.path")
    datasets.disable_progress_bars()
    try:
        yield from _open_local(config, config.path) if is_local(config.path) else _open_hub(config, config.path)
    except SourceError:
        raise
    except _LOADING_ERRORS as error:
        reason = one_line(error, config.path)
        raise SourceError(f"data '{config.name}' at '{config.path}' cannot be read: {reason}") from error


def _open_hub(config: DataConfig, path: str) -> Iterable[Mapping[str, Any]]:
    # through the hub's cache, not streamed: nodes without a network live from that cache
    rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
        path, config.config_name, split=config.split, revision=config.revision
    )
    return rows


def _open_local(config: DataConfig, path: str) -> Iterable[Mapping[str, Any]]:
    """Rows straight from the files: streaming them writes no copy into the home folder's cache."""
    config.check_path()
    place = Path(path).expanduser()
    if (place / "dataset_dict.json").is_file():
        place /= config.split
    if (place / "state.json").is_file():
        saved: Iterable[Mapping[str, Any]] = datasets.load_from_disk(str(place))
        return saved
    options: dict[str, Any] = {"split": config.split, "streaming": True}
    if place.is_file():
        if place.suffix not in FILE_FORMATS:
            raise SourceError(f"data '{config.name}': '{place}' is not one of {', '.join(FILE_FORMATS)}: convert it")
        builder = FILE_FORMATS[place.suffix]
        options |= {"data_files": {config.split: str(place)}}
        if builder == "text":
            options |= {"sample_by": "paragraph"}  # a line is no document, and one document could not be held out of
    else:
        builder = str(place)
        options |= {"name": config.config_name}
    with TemporaryDirectory() as folder:  # even streaming leaves a lock file in the cache
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(builder, cache_dir=folder, **options)
    return rows
