"""A desk's folder: what is read, and that what is wrong with it is said, with the file, the place and what is near."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kelm.apps.support import desk as desks
from kelm.apps.support import templates
from kelm.errors import ConfigError, InvalidRequest
from support_kit import EXAMPLE, FILES, read_desk, write_desk


def test_the_small_desk(tmp_path: Path) -> None:
    desk = read_desk(tmp_path)
    assert (desk.name, desk.language, desk.person, desk.words) == ("Corner Shop", "en", "person", ("人工",))
    assert (desk.models.classifier, desk.models.embedding, desk.models.chat) == ("base@intents", "words", None)
    assert desk.labels == {"status", "visit", "greeting", "person", "other"}
    assert set(desk.templates) == {"status", "visit", "greeting"}
    assert [passage.url for passage in desk.passages] == [
        "/articles/shop#shop", "/articles/tea#storage", "/articles/tea#brewing", "/articles/zh#多久",
    ]  # fmt: skip


def test_the_example_desk() -> None:
    desk = desks.read(EXAMPLE)
    assert 12 <= len(desk.articles) <= 20
    counts = {label: sum(row.expect == label for row in desk.intents) for label in desk.labels}
    assert 6 <= len(desk.templates) <= 8
    assert min(counts.values()) >= 25
    assert {name for name in desk.articles if name.startswith("zh-")}
    known = {(row.text, row.expect) for row in desk.intents}
    assert not known & {(row.text, row.expect) for row in desk.calibration}, "calibration is never tuned on"


def test_defaults(tmp_path: Path) -> None:
    desk = read_desk(tmp_path, desk_yaml="name: A\nmodels: {}\n")
    assert desk.models == desks.Models(None, None, None)
    assert desk.wanted == desks.Wanted(None, None, 0.95)
    assert (desk.person, desk.words, desk.calibration, desk.tuning) == (None, (), (), {})


DESK, TEMPLATES, INTENTS = FILES["desk.yaml"], FILES["templates.yaml"], FILES["intents.csv"]
WRONG: list[tuple[dict[str, str | None], list[str]]] = [
    ({"desk_yaml": None}, ["desk.yaml is missing"]),
    ({"templates_yaml": None}, ["templates.yaml is missing"]),
    ({"intents_csv": None}, ["intents.csv is missing"]),
    ({"desk_yaml": "name: [\n"}, ["desk.yaml", "not YAML"]),
    ({"desk_yaml": DESK + "name: Other\n"}, ["desk.yaml", "line 6", "'name' comes twice"]),
    ({"desk_yaml": DESK + "? [a]\n: 1\n"}, ["desk.yaml", "not YAML", "unhashable key"]),
    ({"desk_yaml": "- a\n"}, ["desk.yaml", "must be a mapping"]),
    ({"desk_yaml": DESK + "treshold: 1\n"}, ["unknown key 'treshold'", "did you mean thresholds"]),
    ({"desk_yaml": DESK.replace("classifier", "clasifier")}, ["models", "'clasifier'", "did you mean classifier"]),
    ({"desk_yaml": DESK.replace("name: Corner Shop", "")}, ["name is missing"]),
    ({"desk_yaml": DESK.replace("Corner Shop", "3")}, ["name must be one line of text"]),
    ({"desk_yaml": DESK + "language: eng\n"}, ["language must be one of en, zh", "'eng'", "did you mean en"]),
    ({"desk_yaml": DESK.replace("intent: 0.8", "intent: 80")}, ["thresholds: intent", "between 0 and 1", "80"]),
    ({"desk_yaml": DESK.replace("passage: 0.4", "passage: .nan")}, ["thresholds: passage", "nan"]),
    ({"desk_yaml": DESK.replace("intent: 0.8", "intent: true")}, ["thresholds: intent", "True"]),
    ({"desk_yaml": DESK.replace("intent: person", "intent: persons")}, ["'persons'", "did you mean person"]),
    ({"desk_yaml": DESK.replace("[人工]", "人工")}, ["words must be a list"]),
    ({"desk_yaml": DESK + "tune: {epochs: 2.5}\n"}, ["tune: epochs must be a whole number between 1 and", "2.5"]),
    ({"desk_yaml": DESK + "tune: {epoch: 2}\n"}, ["tune", "'epoch'", "did you mean epochs"]),
    ({"templates_yaml": TEMPLATES.replace("  status:", "  staus:")}, ["'staus'", "no label of intents.csv", "status"]),
    ({"templates_yaml": TEMPLATES.replace("{order} is", "{ordr} is")}, ["answers: status", "{ordr}", "mean order"]),
    ({"templates_yaml": TEMPLATES.replace("greeting: Hello!", "greeting: ''")}, ["answers: greeting", "must be text"]),
    ({"templates_yaml": TEMPLATES.replace("greeting: Hello!", "greeting: {fr: Salut}")}, ["greeting", "'fr'"]),
    ({"templates_yaml": TEMPLATES.replace("pattern: '(?:Bern|Oslo)', ", "")}, ["slots: city", "pattern is missing"]),
    ({"templates_yaml": TEMPLATES.replace("  city:", "  City:")}, ["slots: City", "small letters"]),
    ({"templates_yaml": TEMPLATES.replace(", ask: 'Which city?'", "")}, ["slots: city", "ask is missing"]),
    ({"intents_csv": "text,lable\na,b\n"}, ["intents.csv", "no column is named label", "'lable'"]),
    ({"intents_csv": "text,label\na,b\n"}, ["at least two labels, got b"]),
    ({"intents_csv": INTENTS + "a,b,c\n"}, ["intents.csv:7", "3 cells"]),
    ({"intents_csv": INTENTS + '"a,status\n'}, ["intents.csv:7", "quote"]),
    ({"intents_csv": INTENTS + "  ,status\n"}, ["intents.csv:7", "text must be"]),
    ({"intents_csv": INTENTS + "a" * 2001 + ",status\n"}, ["intents.csv:7", "longer than 2000"]),
    ({"articles_tea_md": "no title\n"}, ["articles/tea.md", "must begin with a title"]),
    ({"articles_tea_md": "## small\n\ntext\n"}, ["articles/tea.md", "must begin with a title"]),
    ({"articles_tea_md": "# Only a title\n"}, ["articles/tea.md", "no text under it"]),
]


@pytest.mark.parametrize(("changed", "said"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_said(tmp_path: Path, changed: dict[str, str | None], said: list[str]) -> None:
    with pytest.raises((ConfigError, InvalidRequest)) as caught:
        read_desk(tmp_path, **changed)
    for part in said:
        assert part in caught.value.message


def test_a_file_of_nearly_the_right_name_is_named(tmp_path: Path) -> None:
    folder = write_desk(tmp_path)
    (folder / "intents.csv").rename(folder / "intent.csv")
    with pytest.raises(ConfigError, match=r"did you mean intent\.csv"):
        desks.read(folder)


def test_files_that_are_not_text(tmp_path: Path) -> None:
    folder = write_desk(tmp_path)
    (folder / "articles" / "tea.md").write_bytes(b"# Tea\n\nca\xe9\n")
    with pytest.raises(InvalidRequest, match=r"articles/tea\.md:3: not UTF-8"):
        desks.read(folder)
    (folder / "articles" / "tea.md").rename(folder / "articles" / "My Tea.md")
    with pytest.raises(ConfigError, match=r"articles/My Tea\.md: name it"):
        desks.read(folder)


def test_without_articles(tmp_path: Path) -> None:
    folder = write_desk(tmp_path)
    for path in (folder / "articles").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="articles/ is missing or holds no"):
        desks.read(folder)
    with pytest.raises(ConfigError, match="is no folder"):
        desks.read(folder / "desk.yaml")


@pytest.mark.parametrize("expect", ["staus", "article:teas", "nothing"])
def test_calibration_expects_what_there_is(tmp_path: Path, expect: str) -> None:
    folder = write_desk(tmp_path)
    (folder / "calibration.csv").write_text(f"text,expect\nfirst,none\na,article:tea\nb,{expect}\n")
    with pytest.raises(ConfigError, match=rf"calibration\.csv:4: '{expect}' is no intent"):
        desks.read(folder)


def slots(pattern: str) -> str:
    return f"slots: {{x: {{pattern: '{pattern}', ask: a}}}}\nanswers: {{status: '{{x}}'}}\n"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "not a regular expression"),
        (r"\d+", "+ and * have no end"),
        (r"x*", "+ and * have no end"),
        (r"\d{2,}", "has no end"),
        (r"(?:ab){2}", "a group may not be repeated"),
        (r"(?=a)b", "only plain groups"),
        (r"(?i)ab", "only plain groups"),
        (r"[a-z]{1,80}[a-z]{1,80}", "can match in 6400 ways"),
        ("x" + "|x" * 13, "ways"),
        (r"\d{0,4}", "matches an empty text"),
        ("a" * 201, "at most 200 characters"),
        (r"\d{1,99999999999}", "not a regular expression"),
    ],
)
def test_patterns_that_are_refused(tmp_path: Path, pattern: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_desk(tmp_path, templates_yaml=slots(pattern))
    assert said in caught.value.message
    assert "slots: x: pattern" in caught.value.message


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"\bAB-?(\d{6})\b", "my AB123456!", "123456"),
        (r"[\w.]{1,40}@[\w.]{1,40}", "at a.b@c.example please", "a.b@c.example"),
        (r"[+*]\d{2}", "call +49", "+49"),
        (r"\+\d{2,15}", "call +49123", "+49123"),
        (r"(?P<n>\d{4})-\d{2}", "on 2026-11", "2026"),
    ],
)
def test_patterns_that_are_taken(tmp_path: Path, pattern: str, text: str, found: str) -> None:
    desk = read_desk(tmp_path, templates_yaml=slots(pattern))
    assert desk.templates["status"].values(text) == {"x": found}


def test_no_pattern_takes_long(tmp_path: Path) -> None:
    """The worst that is allowed, on the longest message, against what makes it try everything."""
    desk = read_desk(tmp_path, templates_yaml=slots(r"\w{1,64}\w{1,64}!"))
    start = time.monotonic()
    assert desk.templates["status"].values("a" * 2000) == {}
    assert time.monotonic() - start < 2


def test_slots_are_filled_and_asked_for(tmp_path: Path) -> None:
    visit = read_desk(tmp_path).templates["visit"]
    assert [slot.name for slot in visit.slots] == ["order", "city"]
    given = visit.values("AB-1234 in Oslo, not AB-9999")
    assert given == {"order": "1234", "city": "Oslo"}
    missing = visit.missing({"order": "1234"})
    assert missing is not None and missing.name == "city"
    assert visit.missing(given) is None
    assert visit.fill(given, "en") == "1234 can be fetched in Oslo."


def test_a_value_is_never_a_template(tmp_path: Path) -> None:
    visit = read_desk(tmp_path).templates["visit"]
    assert (
        visit.fill({"order": "{city}", "city": "{order.__class__}"}, "en")
        == "{city} can be fetched in {order.__class__}."
    )


def test_texts_in_other_languages() -> None:
    assert templates.spoken({"en": "a", "zh": "b"}, "zh") == "b"
    assert templates.spoken({"en": "a"}, "zh") == "a"
    assert templates.spoken({"": "a"}, "zh") == "a"
    assert templates.spoken({"zh": "b"}, "en") == "b"
