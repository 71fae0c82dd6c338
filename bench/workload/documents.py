"""The texts behind a corpus, one document after another, from a :class:`~bench.config.sources.DataConfig`."""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
from transformers import PreTrainedTokenizerFast

from bench.config.sources import DataConfig, DataSource, SourceError, is_local
from bench.workload.hub import one_line
from bench.workload.rows import Document, columns_of, to_document

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


def read_documents(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> Iterator[Document]:
    """The configured corpus's documents that are not empty, in its own order, each read when it is asked for.

    ``tokenizer``: for its chat template.

    Raises:
        SourceError: the text cannot be had, or is not text.
    """
    if config.source == DataSource.stdlib:
        yield from (Document(text, "text") for text in stdlib_documents().values())
        return
    for row in _dataset_rows(config):
        if (document := to_document(row, config, tokenizer)) is not None and document.text:
            yield document


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
    except (*_LOADING_ERRORS, StopIteration) as error:  # the last is what datasets says where it finds no file
        reason = one_line(error, config.path)
        raise SourceError(f"data '{config.name}' at '{config.path}' cannot be read: {reason}") from error


def _open_hub(config: DataConfig, path: str) -> Iterable[Mapping[str, Any]]:
    # through the hub's cache, not streamed: nodes without a network live from that cache
    builder = datasets.load_dataset_builder(path, config.config_name, revision=config.revision)
    options = {"na_filter": False} if _is_csv(builder) else {}
    rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
        path, config.config_name, split=config.split, revision=config.revision, **options
    )
    return rows


def _open_local(config: DataConfig, path: str) -> Iterator[Mapping[str, Any]]:
    """Rows straight from the files: streaming them writes no copy into the home folder's cache."""
    config.check_path()
    place = Path(path).expanduser()
    if (place / "dataset_dict.json").is_file():
        place /= config.split
    if (place / "state.json").is_file():
        yield from datasets.load_from_disk(str(place))
        return
    with TemporaryDirectory() as folder:  # even streaming leaves a lock file in the cache
        link = _link(place, Path(folder))
        builder = _builder(config, place, link, cache=str(Path(folder) / "cache"))
        _keep_words(builder, config)
        try:
            yield from builder.as_streaming_dataset(split=config.split)
        except _LOADING_ERRORS as error:
            raise ValueError(one_line(error, path).replace(str(link), str(place))) from error


def _link(place: Path, folder: Path) -> Path:
    """A link in ``folder`` to a file, or a folder of links to files, under names that are no patterns.

    datasets reads a path as a pattern, in which brackets, stars and question marks have a meaning.
    """
    link = folder / f"data{place.suffix.lower()}"
    if not place.is_dir():
        link.symlink_to(place.resolve())
        return link
    link.mkdir()
    for file in place.rglob("*"):
        plain = link / re.sub(r"[*?\[\]]", lambda found: f"-{ord(found[0]):x}-", str(file.relative_to(place)))
        if file.is_file():
            plain.parent.mkdir(parents=True, exist_ok=True)
            plain.symlink_to(file.resolve())
    return link


def _builder(config: DataConfig, place: Path, link: Path, cache: str) -> Any:
    """What reads the file or folder ``place``, which ``link`` points to."""
    if not place.is_file():
        return datasets.load_dataset_builder(str(link), config.config_name, cache_dir=cache)
    if link.suffix not in FILE_FORMATS:
        raise SourceError(f"data '{config.name}': '{place}' is not one of {', '.join(FILE_FORMATS)}: convert it")
    kind = FILE_FORMATS[link.suffix]
    # a line is no document, and one document could not be held out of
    options = {"sample_by": "paragraph"} if kind == "text" else {}
    return datasets.load_dataset_builder(kind, data_files={config.split: str(link)}, cache_dir=cache, **options)


def _keep_words(builder: Any, config: DataConfig) -> None:
    """Has a CSV file's text read as it stands, also where it says None, null or NA, or is a number."""
    if _is_csv(builder):
        builder.config.na_filter = False
        builder.config.converters = dict.fromkeys(columns_of(config), str)


def _is_csv(builder: Any) -> bool:
    return hasattr(builder.config, "na_filter")
