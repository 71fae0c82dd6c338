"""Corpora: real text, cut without loss, with held-out documents that stay held out."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from bench.config.sources import DataConfig, DataSource, ModelConfig, SourceError
from bench.workload import documents
from bench.workload.corpus import Corpus, _token_bytes, load_corpus
from bench.workload.documents import read_documents, stdlib_documents
from bench.workload.models import load_tokenizer
from bench.workload.rows import Document

FOLDER = Path(__file__).parent.parent / "conf" / "data"
TOKENIZER = load_tokenizer(ModelConfig("small", architecture="llama"))
STDLIB = DataConfig("stdlib")
TEXTS = [f"Document {number}: naïve café, 東京 and 👩‍🔬. " * 20 for number in range(40)]


def dataset(path: Path | str, **changes: Any) -> DataConfig:
    return DataConfig("mine", source=DataSource.dataset, path=str(path), **{"held_out_fraction": 0.3, **changes})


def texts(config: DataConfig, tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> list[str]:
    return [document.text for document in read_documents(config, tokenizer)]


def load(config: DataConfig) -> Corpus:
    return load_corpus(config, TOKENIZER, sequence_length=16, train_sequences=20, held_out_sequences=8)


def write_json(folder: Path) -> Path:
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text, "number": 1}) for text in TEXTS))
    return folder / "texts.jsonl"


def write_csv(folder: Path) -> Path:
    datasets.Dataset.from_dict({"text": TEXTS}).to_pandas().to_csv(folder / "texts.csv", index=False)
    return folder / "texts.csv"


def write_parquet(folder: Path) -> Path:
    datasets.Dataset.from_dict({"text": TEXTS}).to_pandas().to_parquet(folder / "texts.parquet")
    return folder / "texts.parquet"


def write_folder(folder: Path) -> Path:
    (folder / "inner").mkdir()
    write_json(folder / "inner")
    return folder / "inner"


def write_saved(folder: Path) -> Path:
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(folder / "saved")
    return folder / "saved"


def write_saved_splits(folder: Path) -> Path:
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": TEXTS})}).save_to_disk(folder / "splits")
    return folder / "splits"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No network, and a cache folder of the test's own to look into."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    return cache


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_data_file_fits_the_schema(path: Path) -> None:
    """The YAML files merge onto the typed schema and are called like their file."""
    changes = {"path": "x"} if path.stem == "dataset" else {}
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), OmegaConf.load(path), changes))
    assert isinstance(config, DataConfig)
    assert config.name == path.stem


def test_the_standard_library_is_enough_text() -> None:
    """The default corpus is one to two megabytes of over a hundred documents, in the same order each time."""
    texts = stdlib_documents()
    assert len(texts) > 100
    assert 1e6 < sum(len(text.encode()) for text in texts.values()) < 2e6
    assert list(texts) == list(stdlib_documents())
    assert max(map(len, texts.values())) <= documents.STDLIB_CHARACTERS


def test_a_corpus_has_the_asked_shape_and_is_the_same_each_time() -> None:
    """Equal blocks of known ids; the same request gives the same data and says so by its fingerprint."""
    corpus, again = load(STDLIB), load(STDLIB)
    assert (corpus.train.shape, corpus.held_out.shape) == ((20, 16), (8, 16))
    assert corpus.train.dtype == torch.int64
    assert int(corpus.train.max()) < len(TOKENIZER)
    assert torch.equal(corpus.train, again.train)
    assert torch.equal(corpus.held_out, again.held_out)
    assert corpus.fingerprint == again.fingerprint
    assert corpus.description["source"] == "stdlib"
    assert corpus.description["tokenizer"] == "builtin"


def test_other_data_have_another_fingerprint() -> None:
    """One sequence more, or another held-out share, is another corpus."""
    sizes = [(20, 8), (21, 8), (20, 9)]
    prints = {load_corpus(STDLIB, TOKENIZER, 16, train, held_out).fingerprint for train, held_out in sizes}
    prints.add(load(DataConfig("stdlib", held_out_fraction=0.4)).fingerprint)
    assert len(prints) == 4


def test_a_larger_request_begins_with_the_smaller_one() -> None:
    """Asking for more adds data at the end, so that budgets of different size are comparable."""
    small = load_corpus(STDLIB, TOKENIZER, 16, 20, 8)
    large = load_corpus(STDLIB, TOKENIZER, 16, 200, 80)
    assert torch.equal(large.train[:20], small.train)
    assert torch.equal(large.held_out[:8], small.held_out)


def test_held_out_documents_are_never_trained_on(tmp_path: Path) -> None:
    """No document has text on both sides, not even one that the data set holds twice."""
    path = tmp_path / "twice.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS + TEXTS[::-1]))
    corpus = load_corpus(dataset(path), TOKENIZER, 64, 120, 60)
    sides = [
        set(re.findall(r"Document (\d+):", TOKENIZER.decode(side.flatten())))
        for side in (corpus.train, corpus.held_out)
    ]
    assert min(map(len, sides)) > 3
    assert not sides[0] & sides[1]


def test_only_as_much_is_read_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small request leaves the rest of a large data set untouched."""
    seen: list[Document] = []

    def counted(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> Any:
        for text in read_documents(config, tokenizer):
            seen.append(text)
            yield text

    monkeypatch.setattr("bench.workload.corpus.read_documents", counted)
    load_corpus(STDLIB, TOKENIZER, 16, 4, 4)
    assert 0 < len(seen) < 60
    seen.clear()
    assert load_corpus(STDLIB, TOKENIZER, 16, 0, 0).train.shape == (0, 16)
    assert not seen


def test_no_text_is_lost_in_cutting(tmp_path: Path) -> None:
    """The blocks, put together again, are the documents in order with a separator behind each."""
    corpus = load_corpus(dataset(write_json(tmp_path), held_out_fraction=0.0), TOKENIZER, 50, 30, 0)
    text = TOKENIZER.decode(corpus.train.flatten())
    assert "".join(f"{document}<|eos|>" for document in TEXTS).startswith(text.rstrip("\ufffd"))


@settings(max_examples=50)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_token_bytes_are_exact(text: str) -> None:
    """The bytes that the builtin tokenizer's tokens stand for add up to the text's own, whatever the text."""
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert int(_token_bytes(TOKENIZER)[ids].sum()) == len(text.encode())


def test_held_out_bytes_count_what_is_predicted() -> None:
    """Each sequence's first token and the separators stand for no predicted text; a cut within a character counts."""
    corpus = load_corpus(STDLIB, TOKENIZER, 16, 0, 8)
    ids = [TOKENIZER.convert_ids_to_tokens(row[1:].tolist(), skip_special_tokens=True) for row in corpus.held_out]
    assert corpus.held_out_bytes == sum(len(token) for row in ids for token in row)


def test_sentencepiece_tokens_count_their_bytes() -> None:
    """A tokenizer that spells spaces as U+2581 and lone bytes as <0xE2>, like Llama 2's, has exact bytes too."""
    vocabulary = {"</s>": 0, "\u2581caf": 1, "é": 2, "<0xE2>": 3, "\u2581": 4}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert _token_bytes(tokenizer).tolist() == [0, 4, 2, 1, 1]


# datasets leaves a csv file that is not read to its end to the garbage collector
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("write", [write_json, write_csv, write_parquet, write_folder, write_saved, write_saved_splits])
def test_local_data_are_read_where_they_lie(write: Callable[[Path], Path], tmp_path: Path, offline: Path) -> None:
    """Every format gives the same corpus, and none leaves a copy or a lock in the cache folder."""
    reference = load(dataset(write_json(tmp_path)))
    corpus = load(dataset(write(tmp_path)))
    assert corpus.fingerprint == reference.fingerprint
    assert list(offline.iterdir()) == []
    gc.collect()  # what the collector says of the csv file is said here


def test_a_text_file_is_paragraphs(tmp_path: Path) -> None:
    """A plain text file's documents are its paragraphs, so that some can be held out."""
    (tmp_path / "book.txt").write_text("one\nline\n\ntwo\n\nthree\n")
    assert [text.strip() for text in texts(dataset(tmp_path / "book.txt"))] == ["one\nline", "two", "three"]


def test_empty_rows_are_passed_over(tmp_path: Path) -> None:
    """Null and empty texts are no documents."""
    (tmp_path / "x.jsonl").write_text('{"text": null}\n{"text": ""}\n{"text": "full"}\n')
    assert texts(dataset(tmp_path / "x.jsonl")) == ["full"]


def broken(folder: Path) -> DataConfig:
    (folder / "broken.parquet").write_text("no parquet")
    return dataset(folder / "broken.parquet")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            lambda folder: dataset(write_json(folder), text_column="body"),
            "no column 'body': set data.text_column=text",
        ),
        (lambda folder: dataset(write_json(folder), text_column="number"), "holds int values"),
        (lambda folder: dataset(write_folder(folder), split="test"), "Bad split"),
        (lambda folder: dataset(write_saved_splits(folder), split="test"), "cannot be read"),
        (lambda folder: dataset(folder / "absent.json"), "there is no file or folder"),
        (lambda folder: dataset(Path(__file__)), "is not one of .json"),
        (dataset, "cannot be read"),
        (broken, "cannot be read"),
        (lambda folder: dataset("no/such-data"), "hub id 'no/such-data' is not in the cache"),
        (lambda folder: DataConfig("mine", source=DataSource.dataset), "set data.path"),
        (lambda folder: DataConfig("stdlib", held_out_fraction=2.0), "give one from 0 to 1"),
        (lambda folder: DataConfig("stdlib", held_out_fraction=0.0), "fills 0 held-out sequences .* not 8"),
        (lambda folder: DataConfig("stdlib", held_out_fraction=1.0), "fills 0 train sequences .* not 20"),
    ],
)
def test_data_that_cannot_be_had_are_said_in_one_line(config: Any, message: str, tmp_path: Path) -> None:
    """Each way to get the data wrong gives one line with the cause."""
    with pytest.raises(SourceError, match=message) as caught:
        load(config(tmp_path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_tokenizer_that_drops_text_has_no_bits_per_byte() -> None:
    """Bits per byte of a text that the tokenizer does not keep would be too good; its loss is measured all the same."""
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="[UNK]")
    corpus = load_corpus(STDLIB, tokenizer, 2, 0, 1)
    assert corpus.held_out_bytes is None
    assert "bits per byte need one that keeps all text" in str(corpus.bytes_missing)
    tokenizer.eos_token = None
    with pytest.raises(SourceError, match="no eos token"):
        load_corpus(STDLIB, tokenizer, 2, 0, 1)
