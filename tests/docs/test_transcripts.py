"""What may differ between a page's transcript and a run, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import Document
from transcripts import commands, matches

PAGE = """# Page

```console
$ cat <<END
> two
> END
two
$ true
```

```sh
not run
```

```console
$ echo three
...
```
"""


def test_commands_of_a_page() -> None:
    found = commands(Document(Path("page.md"), PAGE))
    assert [(one.text, one.expected) for one in found] == [
        ("cat <<END\ntwo\nEND", ["two"]),
        ("true", []),
        ("echo three", ["..."]),
    ]


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("accuracy 0.93 in 12.5 s\n", ["accuracy 0.91 in 8 s"]),
        ("toy   sha 12ab34cd  3 KiB", ["toy sha ffee001122  12 KiB"]),
        ("a\nb\nc", ["a", "..."]),
        ("a\nb\nc", ["...", "c"]),
        ("", []),
        ("says 'one'", ["says 'another'"]),
        ("made 2 hours ago", ["made just now"]),
        ("0.0004915 s 7.68e-07 0.003*", ["0.5 s 1e-3 0.1"]),
        ("┏━━━┳━━┓\n┃ a ┃ 1 ┃", ["┏━┳━┓", "┃ a ┃ 2 ┃"]),
    ],
)
def test_what_may_differ(printed: str, expected: list[str]) -> None:
    assert matches(printed, expected)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("error: no such model", ["nano is here"]),
        ("a\nb", ["a"]),
        ("a", ["a", "b"]),
        ("decade 12", ["facade 12"]),
        ("anything", []),
        ("says one", ["says 'one'"]),
        ("a\nb", ["...", "c"]),
    ],
)
def test_what_may_not(printed: str, expected: list[str]) -> None:
    assert not matches(printed, expected)
