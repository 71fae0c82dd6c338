"""Files as people have them: chats, instructions, words that look like nothing, names with brackets."""

from __future__ import annotations

import gc
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from bench.config.sources import DataConfig, ModelConfig, SourceError
from bench.workload.corpus import load_corpus
from bench.workload.documents import read_documents
from bench.workload.models import load_tokenizer
from bench.workload.rows import Document
from tests.test_corpus import TOKENIZER, dataset, texts

CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
RENDERED = "<|bos|>user>Who?<|eos|><|bos|>assistant>Me.<|eos|>"


def write(file: Path, *rows: object) -> Path:
    """A file of JSON lines."""
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def with_template() -> PreTrainedTokenizerFast:
    """A tokenizer that writes `<|bos|>role>content<|eos|>` of each message, and refuses a chat that no user begins."""
    tokenizer = load_tokenizer(ModelConfig("small", architecture="llama"))
    tokenizer.chat_template = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('no user') }}{% endif %}"
        "{% for m in messages %}<|bos|>{{ m.role }}>{{ m.content }}"
        "{% if m.tool is defined %}!{% endif %}<|eos|>{% endfor %}"
    )
    return tokenizer


def test_chats_become_text(tmp_path: Path) -> None:
    """By the tokenizer's template where it has one, else as `role: content`; from `messages` or the column named."""
    config = dataset(write(tmp_path / "x.jsonl", {"messages": CHAT}))
    named = dataset(write(tmp_path / "y.jsonl", {"talk": CHAT, "messages": 1}, {"talk": []}), text_column="talk")
    for one in (config, named):
        assert list(read_documents(one, TOKENIZER)) == [Document("user: Who?\nassistant: Me.", "role: content")]
        assert list(read_documents(one, with_template())) == [Document(RENDERED, "chat template")]


def test_a_chat_that_the_template_refuses_is_one_line(tmp_path: Path) -> None:
    """Whatever the template raises."""
    config = dataset(write(tmp_path / "x.jsonl", {"messages": CHAT[::-1]}))
    with pytest.raises(SourceError, match="template refuses: no user"):
        texts(config, with_template())


def test_keys_that_only_some_messages_have_are_absent_from_the_others(tmp_path: Path) -> None:
    """A file fills them up with nothing, and templates ask whether they are there."""
    chat = [CHAT[0], {**CHAT[1], "tool": "x"}]
    config = dataset(write(tmp_path / "x.jsonl", {"messages": chat}))
    assert texts(config, with_template()) == [RENDERED.replace("Me.", "Me.!")]


def test_special_tokens_of_a_chat_are_tokens_and_no_bytes(tmp_path: Path) -> None:
    """What the template writes is encoded as the model was trained on it; bytes are those of the words alone."""
    config = dataset(write(tmp_path / "x.jsonl", {"messages": CHAT}), held_out_fraction=1.0)
    tokenizer = with_template()
    length = len(tokenizer.encode(RENDERED, add_special_tokens=False))
    corpus = load_corpus(config, tokenizer, length, 0, 1)
    assert corpus.held_out[0, 0] == tokenizer.bos_token_id
    assert int((corpus.held_out == tokenizer.eos_token_id).sum()) == 2
    assert corpus.held_out_bytes == len("user>Who?assistant>Me.")
    assert corpus.description["form"] == "chat template"
    assert load_corpus(config, TOKENIZER, 2, 0, 1).description["form"] == "role: content"


def test_columns_are_put_into_a_template(tmp_path: Path) -> None:
    """As they stand, nothing for one that is null; doubled braces are braces, a typed line end is one."""
    rows = [{"question": "Why?", "input": None, "score": 1}, {"question": "How?", "input": "So", "score": 2}]
    config = dataset(write(tmp_path / "x.jsonl", *rows), template=r"{{Q}} {question}\n{input}\n{score}")
    assert texts(config) == ["{Q} Why?\n\n1", "{Q} How?\nSo\n2"]
    assert next(read_documents(config, TOKENIZER)).form == "template"


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"text": "a"}, {"template": "{text}{body}"}, "no column 'body', which data.template names: use text"),
        ({"text": "a"}, {"template": "text"}, "needs names of columns in braces"),
        ({"text": "a"}, {"template": "{text:x}"}, "needs names of columns in braces"),
        ({"text": "a"}, {"template": "{text"}, "can't be read"),
        ({"a": "b", "c": "d"}, {}, r"set data.text_column to one of a, c, or data.template='{a}\\n{c}'"),
        ({"chat": CHAT, "a": 1}, {}, "set data.text_column=chat"),
        ({"text": "a", "number": 1}, {"text_column": "body"}, "set data.text_column=text .of number, text"),
        ({"messages": CHAT}, {"text_column": "body"}, "set data.text_column=messages"),
        ({"a": 1}, {}, "none of a is text or a chat of role and content"),
        ({"text": [{"from": "me"}]}, {}, "holds list values in column 'text': none of text is text"),
        ({"text": 1, "b": "c"}, {}, "holds int values in column 'text': set data.text_column=b"),
    ],
)
def test_the_advice_is_what_works(row: dict[str, Any], settings: dict[str, str], message: str, tmp_path: Path) -> None:
    """A row that can't be read as it is set gets one line that names columns that can."""
    with pytest.raises(SourceError, match=message):
        texts(dataset(write(tmp_path / "x.jsonl", row), **settings))


# datasets leaves a csv file that is not read to its end to the garbage collector
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_words_of_a_csv_file_are_text(tmp_path: Path) -> None:
    """None, null, NA and numbers are what the file says, alone or in a folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "x.csv").write_text("text,other\nNone,1\nnull,2\nNA,3\n1.50,4\n,5\n")
    for place in (folder / "x.csv", folder):
        assert texts(dataset(place)) == ["None", "null", "NA", "1.50"]
        assert texts(dataset(place, template="{other}:{text}"))[-2:] == ["4:1.50", "5:"]
    gc.collect()  # what the collector says of the csv file is said here


@pytest.mark.parametrize("name", ["clean [v2].jsonl", "what?.jsonl", "all*.jsonl", "[a]/x.jsonl", "UPPER.JSONL"])
def test_a_name_is_no_pattern(name: str, tmp_path: Path) -> None:
    """Brackets, stars and question marks in names of files and folders mean themselves."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    write(file, {"text": "one"})
    write(file.parent / "all of it.jsonl", {"text": "another"})
    assert texts(dataset(file)) == ["one"]
    folder = tmp_path / "f [1]*"
    folder.mkdir()
    write(folder / "part [2].jsonl", {"text": "two"})
    assert texts(dataset(folder)) == ["two"]


def test_an_error_names_the_file_that_was_given(tmp_path: Path) -> None:
    """Not the name under which it was read."""
    (tmp_path / "torn.jsonl").write_text('{"text": "one"}\n{"text')
    with pytest.raises(SourceError, match=r"torn\.jsonl") as caught:
        texts(dataset(tmp_path / "torn.jsonl"))
    assert "data.jsonl" not in str(caught.value)


def test_text_whose_accents_are_composed_anew_has_no_bits_per_byte(tmp_path: Path) -> None:
    """A tokenizer that normalizes is exact on text that is normalized already, and takes text that is not."""
    backend = Tokenizer.from_str(TOKENIZER.backend_tokenizer.to_str())
    backend.normalizer = normalizers.NFC()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>")
    corpora = {}
    for form in ("NFC", "NFD"):
        rows = [{"text": unicodedata.normalize(form, f"{number} é à ü ñ ç " * 40)} for number in range(20)]
        config: DataConfig = dataset(write(tmp_path / f"{form}.jsonl", *rows))
        corpora[form] = load_corpus(config, tokenizer, 16, 4, 4)
    assert corpora["NFC"].held_out_bytes
    assert corpora["NFC"].bytes_missing is None
    assert corpora["NFD"].held_out_bytes is None
    assert "bits per byte" in str(corpora["NFD"].bytes_missing)
