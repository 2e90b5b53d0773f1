"""recipes.data's corpora and labelled texts, from files made here."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recipe_files import tar_bytes
from recipes.data import imdb
from recipes.data.corpus import Corpus, Level, columns
from recipes.data.errors import RecipeDataError
from recipes.data.texts import Texts, load_texts

REVIEWS = {
    "train/neg/10_1.txt": "Bad, bad film.",
    "train/neg/2_3.txt": "It's BAD<br /><br />Truly",
    "train/pos/0_9.txt": "good film",
    "test/neg/0_2.txt": "bad unheard",
    "test/pos/0_8.txt": "good good good good good",
}


def words_of(corpus: Corpus, tokens: Tensor) -> list[str]:
    return [corpus.vocabulary[token] for token in tokens]


def write_parts(folder: Path, train: str, valid: str, test: str) -> Path:
    for part, text in {"train": train, "valid": valid, "test": test}.items():
        (folder / f"{part}.txt").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_of_words(tmp_path: Path) -> None:
    corpus = Corpus.load(write_parts(tmp_path, "the cat\n\n the  dog", "the fox\n", "a dog\n"), Level.WORD)
    assert corpus.vocabulary == ["the", "cat", "<eos>", "dog", "<unk>"]
    assert words_of(corpus, corpus.train) == ["the", "cat", "<eos>", "<eos>", "the", "dog", "<eos>"]
    assert words_of(corpus, corpus.valid) == ["the", "<unk>", "<eos>"]
    assert words_of(corpus, corpus.test) == ["<unk>", "dog", "<eos>"]
    assert corpus.train.dtype == torch.int64


def test_an_unknown_word_of_the_training_text_is_not_added_again(tmp_path: Path) -> None:
    corpus = Corpus.load(write_parts(tmp_path, "<unk> cat\n", "dog\n", "cat\n"), Level.WORD)
    assert corpus.vocabulary == ["<unk>", "cat", "<eos>"] and corpus.valid.tolist() == [0, 2]


def test_a_folder_of_characters(tmp_path: Path) -> None:
    corpus = Corpus.load(write_parts(tmp_path, "aé\nb", "é c", "b\n"), Level.CHARACTER)
    assert corpus.vocabulary == ["a", "é", "\n", "b", "<unk>"]
    assert [part.tolist() for part in (corpus.train, corpus.valid, corpus.test)] == [[0, 1, 2, 3], [1, 4, 4], [3, 2]]


@pytest.mark.parametrize(("lines", "sizes"), [(20, (18, 1, 1)), (101, (90, 5, 6))])
def test_one_file_is_split_by_lines_in_order(tmp_path: Path, lines: int, sizes: tuple[int, int, int]) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{number}\n" for number in range(lines)))
    corpus = Corpus.load(tmp_path / "text.txt", Level.WORD)
    assert tuple(len(part) // 2 for part in (corpus.train, corpus.valid, corpus.test)) == sizes
    assert words_of(corpus, corpus.train)[::2] == [str(number) for number in range(sizes[0])]
    assert set(words_of(corpus, torch.cat((corpus.valid, corpus.test)))) == {"<unk>", "<eos>"}


def test_texts_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeDataError, match="nowhere does not exist. Give a folder with train.txt.*or one text file"):
        Corpus.load(tmp_path / "nowhere", Level.WORD)
    write_parts(tmp_path, "a", "", "b")
    with pytest.raises(RecipeDataError, match="valid.txt is empty"):
        Corpus.load(tmp_path, Level.WORD)
    with pytest.raises(RecipeDataError, match="train.txt has 1 lines, expected at least 20"):
        Corpus.load(tmp_path / "train.txt", Level.WORD)
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "valid.txt").write_text("a")
    with pytest.raises(RecipeDataError, match="cannot read .*test.txt as UTF-8"):
        Corpus.load(tmp_path, Level.CHARACTER)
    (tmp_path / "train.txt").unlink()
    (tmp_path / "test.txt").unlink()
    with pytest.raises(RecipeDataError, match=r"lacks train.txt, test.txt\. Give a folder"):
        Corpus.load(tmp_path, Level.WORD)


def test_columns_are_stretches_of_the_text() -> None:
    assert columns(torch.arange(8), 3).tolist() == [[0, 2, 4], [1, 3, 5]]
    assert columns(torch.arange(8), 2).is_contiguous()
    for batch in (0, 9):
        with pytest.raises(ValueError, match=f"batch={batch}, expected at least 1 and at most 8"):
            columns(torch.arange(8), batch)


def rows(tokens: Tensor, labels: Tensor) -> list[tuple[list[int], int]]:
    return sorted(zip(tokens.tolist(), labels.tolist()))


def assert_right(texts: Texts) -> None:
    """Of at most 4 words a review: indices fall with the frequency in training, and then as the words were met."""
    bad, film, comma, its, truly, good = range(2, 8)
    assert texts.classes == ("neg", "pos") and texts.vocabulary == 8
    train = [([bad, comma, bad, film], 0), ([its, bad, truly, 0], 0), ([good, film, 0, 0], 1)]
    assert rows(texts.train_tokens, texts.train_labels) == sorted(train)
    assert rows(texts.test_tokens, texts.test_labels) == [([bad, 1, 0, 0], 0), ([good] * 4, 1)]


def write_reviews(folder: Path) -> None:
    for name, text in REVIEWS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "train" / "unsup").mkdir()
    (folder / "train" / "unsup" / "0_0.txt").write_text("unlabelled")


@pytest.mark.parametrize("below", [".", "aclImdb"])
def test_reviews_in_folders(tmp_path: Path, below: str) -> None:
    write_reviews(tmp_path / "imdb" / below)
    assert_right(load_texts("imdb", tmp_path, length=4, download=False))
    assert_right(load_texts(str(tmp_path / "imdb" / below), tmp_path / "elsewhere", length=4))


def test_reviews_in_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {f"aclImdb/{name}": text.encode() for name, text in reversed(REVIEWS.items())}
    content = tar_bytes({**contents, "aclImdb/train/unsup/0_0.txt": b"unlabelled", "aclImdb/README": b"about"})
    archive = tmp_path / "imdb" / imdb.ARCHIVE.name
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(RecipeDataError, match="expected 84,125,825 with md5 7c2ac02c.*: delete it"):
        load_texts("imdb", tmp_path)
    record = dataclasses.replace(imdb.ARCHIVE, md5=hashlib.md5(content).hexdigest())
    monkeypatch.setattr(imdb, "ARCHIVE", record)
    assert_right(load_texts("imdb", tmp_path, length=4, download=False))


def test_reviews_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = r"put aclImdb_v1.tar.gz \(from .*\) .*, or the unpacked folders .*--data-dir"
    with pytest.raises(RecipeDataError, match=f"imdb is not in .*imdb, and is not to be downloaded: {remedy}"):
        load_texts("imdb", tmp_path, download=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(imdb, "ARCHIVE", dataclasses.replace(imdb.ARCHIVE, url="http://127.0.0.1:9/aclImdb_v1.tar.gz"))
    with pytest.raises(RecipeDataError, match=f"cannot download .*Connection refused.*{remedy}"):
        load_texts("imdb", tmp_path)


def test_reviews_that_are_no_reviews(tmp_path: Path) -> None:
    write_reviews(tmp_path)
    empty = tmp_path / "test" / "pos" / "0_8.txt"
    empty.write_text("<br />\n")
    with pytest.raises(RecipeDataError, match="test/pos/0_8.txt has no words"):
        load_texts(str(tmp_path), tmp_path)
    empty.write_bytes(b"\xff")
    with pytest.raises(RecipeDataError, match="0_8.txt is no UTF-8 text"):
        load_texts(str(tmp_path), tmp_path)
    empty.unlink()
    with pytest.raises(RecipeDataError, match="expected .txt files in each of test/neg and test/pos"):
        load_texts(str(tmp_path), tmp_path)


def test_a_file_for_each_class(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" ".join(f"a{number}" for number in range(21)))
    (tmp_path / "b.txt").write_text(" ".join(f"b{number}" for number in range(10)))
    texts = load_texts(str(tmp_path), tmp_path, length=2)
    assert texts.classes == ("a", "b") and texts.train_tokens.shape == (12, 2)
    assert texts.vocabulary == 2 + 24
    # 16 words of a and 8 of b are for training, the next 4 and 2, which no training example has, for testing.
    expected = [([at, at + 1], 0) for at in range(2, 18, 2)] + [([at, at + 1], 1) for at in range(18, 26, 2)]
    assert rows(texts.train_tokens, texts.train_labels) == expected
    assert rows(texts.test_tokens, texts.test_labels) == [([1, 1], 0)] * 2 + [([1, 1], 1)]
    assert texts.train_labels.tolist() != sorted(texts.train_labels.tolist())
    again = load_texts(str(tmp_path), tmp_path, length=2)
    assert torch.equal(again.train_tokens, texts.train_tokens) and torch.equal(again.train_labels, texts.train_labels)


def test_only_the_most_frequent_words_have_an_index(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x x y z " * 5)
    (tmp_path / "b.txt").write_text("x y x w " * 5)
    texts = load_texts(str(tmp_path), tmp_path, length=4, words=2)
    assert texts.vocabulary == 4
    assert {tuple(row) for row in texts.train_tokens.tolist()} == {(2, 2, 3, 1), (2, 3, 2, 1)}


def test_folders_without_classes(tmp_path: Path) -> None:
    with pytest.raises(RecipeDataError, match="'imbd' is not 'imdb', and as a folder it does not exist. Give 'imdb'"):
        load_texts("imbd", tmp_path)
    (tmp_path / "a.txt").write_text("one two three")
    with pytest.raises(RecipeDataError, match="has 1 .txt files"):
        load_texts(str(tmp_path), tmp_path)
    (tmp_path / "b.txt").write_text("one two three four")
    with pytest.raises(RecipeDataError, match="a.txt has 3 words, expected at least 4.* or a smaller length"):
        load_texts(str(tmp_path), tmp_path, length=2)
    for arguments in ({"length": 0}, {"words": 0}):
        with pytest.raises(ValueError, match="expected at least 1 of each"):
            load_texts(str(tmp_path), tmp_path, **arguments)
