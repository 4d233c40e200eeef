"""Every command and code block of README and docs/ runs, in the state that its page has led the reader to."""

from pathlib import Path

import pytest

from tests.support.doc_pages import Block, blocks, pages, run_page
from tests.support.paths import REPOSITORY


def _page_parameters() -> list[object]:
    parameters = []
    for page in pages():
        if any(block.runs for block in blocks(page)):
            slow = any("slow" in block.options for block in blocks(page))
            marks = [pytest.mark.timeout(600), *([pytest.mark.slow] if slow else [])]
            parameters.append(pytest.param(page, id=str(page.relative_to(REPOSITORY)), marks=marks))
    return parameters


@pytest.mark.parametrize("page", _page_parameters())
def test_blocks_run_in_order(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


def _page(directory: Path, text: str) -> Path:
    page = directory / "page.md"
    page.write_text(text)
    return page


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tests.support.doc_pages.REPOSITORY", tmp_path)
    monkeypatch.setattr("tests.support.doc_pages._CHECKOUT", ())
    return tmp_path


def test_options_and_titles_are_read(place: Path) -> None:
    page = _page(place, '<!-- block: exit=2 limit=5 -->\n```bash\nfalse\n```\n\n```python title="a.py"\nA = 1\n```\n')
    first, second = blocks(page)
    assert (first.language, first.text, first.options) == ("bash", "false\n", {"exit": "2", "limit": "5"})
    assert (second.title, second.runs, second.line) == ("a.py", False, 6)


def test_unknown_option_is_refused(place: Path) -> None:
    with pytest.raises(ValueError, match="patience"):
        blocks(_page(place, "<!-- block: patience=2 -->\n```bash\ntrue\n```\n"))


def test_state_is_kept_between_blocks(place: Path) -> None:
    page = _page(
        place,
        '```python title="words.py"\nWORD = "x"\n```\n'
        '```python\nfrom pathlib import Path\nimport words\nPath("out").write_text(words.WORD)\n```\n'
        "<!-- block: exit=3 -->\n```bash\ngrep -q x out && exit 3\n```\n",
    )
    run_page(page, place)


def test_background_block_is_interrupted_like_by_ctrl_c(place: Path) -> None:
    page = _page(
        place,
        '<!-- block: background=one ready="test -e up" -->\n'
        "```bash\ntrap 'touch down; exit 130' INT; touch up; while true; do sleep 0.05; done\n```\n"
        "<!-- block: stop=one -->\n```bash\ntest -e down\n```\n",
    )
    run_page(page, place)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```bash\necho oh dear; exit 4\n```\n", "exit code 4.*oh dear"),
        ("<!-- block: limit=0.2 -->\n```bash\nsleep 9\n```\n", "still runs"),
    ],
)
def test_failing_block_is_reported_with_its_output(place: Path, text: str, said: str) -> None:
    with pytest.raises(AssertionError, match=rf"(?s)page\.md:.*{said}"):
        run_page(_page(place, text), place)


def test_block_str_names_page_and_line() -> None:
    assert str(Block(REPOSITORY / "README.md", 7, "bash", "", None)) == "README.md:7"
