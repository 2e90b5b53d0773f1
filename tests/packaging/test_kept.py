"""What tools have said of sources is said again only while nothing that they go by has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

import kept


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("TORCHCLIP_OBJECTS", str(tmp_path / "objects"))
    monkeypatch.setattr(kept, "ROOT", tmp_path)
    return []


def test_it_is_asked_anew_where_words_names_or_texts_are_others(asked: list[str], tmp_path: Path) -> None:
    first, second = tmp_path / "a.h", tmp_path / "b.h"

    def answer(words: list[str], files: list[Path]) -> list[str]:
        return kept.kept(words, lambda: files, lambda: asked.append(words[0]) or [str(len(asked))])

    first.write_text("one")
    assert [answer(["-O1"], [first]) for _ in range(2)] == [["1"], ["1"]]
    assert answer(["-O2"], [first]) == ["2"]
    first.write_text("two")
    assert answer(["-O1"], [first]) == ["3"]
    first.rename(second)
    assert answer(["-O1"], [second]) == ["4"]
    assert answer(["-O1"], [second]) == ["4"]


def test_what_changes_meanwhile_is_not_kept(asked: list[str], tmp_path: Path) -> None:
    file = tmp_path / "a.h"
    file.write_text("one")

    def answer() -> list[str]:
        asked.append("")
        file.write_text("two" if len(asked) == 1 else "one")
        return [str(len(asked))]

    assert [kept.kept(["-O1"], lambda: [file], answer) for _ in range(3)] == [["1"], ["2"], ["3"]]


def test_a_setting_of_the_environment_counts(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "sources", list)

    def answer() -> list[str]:
        asked.append("")
        return [str(len(asked))]

    assert [kept.said(["g++", "-O1"], answer) for _ in range(2)] == [["1"], ["1"]]
    monkeypatch.setenv("CPATH", "/elsewhere")
    assert kept.said(["g++", "-O1"], answer) == ["2"]
    monkeypatch.delenv("TORCHCLIP_OBJECTS")
    assert [kept.said(["g++", "-O1"], answer) for _ in range(2)] == [["3"], ["4"]]
