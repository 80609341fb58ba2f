"""The support desk's two pages in a real Chromium: they work, nothing is forbidden to them, and text stays text.

Skipped where no Chromium is installed; the pages' rules are held without one by tests/security/test_support_gate.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from browser_kit import CHROMIUM, Browser, Page, browser
from daemon_kit import daemon, environment
from support_kit import Live, live, write_desk

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed on this machine")

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
DESK = f"name: 'Shop {EVIL.replace(chr(39), chr(39) * 2)[:40]}'\nmodels: {{}}\nthresholds: {{passage: 0.3}}\n"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("browser")
    home = folder / "home"
    with daemon(home), live(write_desk(folder / "desk", desk_yaml=DESK), environment(home)) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def say(page: Page, text: str) -> None:
    before = page.run("document.querySelectorAll('#log .message').length")
    page.type("#text", text)
    page.until(f"document.querySelectorAll('#log .message').length >= {before + 2}")


def last(page: Page, selector: str) -> str:
    return str(page.run(f"[...document.querySelectorAll({selector!r})].at(-1).innerText"))


def test_a_question_its_answer_and_how_it_was_made(chromium: Browser, desk: Live) -> None:
    page = chromium.page(desk.url + "/")
    say(page, "How long does tea keep in a tin?")
    assert last(page, ".message.desk .text") == "Keep tea in a dry tin. It lasts 12 months."
    assert last(page, ".message.desk .from a") == "Tea – Storage"
    shown = page.run("document.querySelector('#how-body').innerText")
    assert "From our articles" in shown and "quoted word for word" in shown
    filled = page.run("document.querySelector('#how .bar i').getBoundingClientRect().width")
    assert filled > 20, "the bar is drawn: the policy lets a script set a width"
    page.click(".vote.up")
    page.until("document.querySelector('.vote.up').getAttribute('aria-pressed') === 'true'")
    page.run("location.reload()")
    page.until("document.querySelectorAll('#log .message').length === 3")
    assert page.run("document.querySelector('.vote.up').getAttribute('aria-pressed')") == "true"
    assert page.trouble() == []
    assert all(url.startswith(desk.url + "/") for url in page.requests())


def test_a_person_answers_in_another_window(chromium: Browser, desk: Live) -> None:
    customer = chromium.page(desk.url + "/")
    say(customer, EVIL)
    person = chromium.page(f"{desk.url}/desk#{desk.key}")
    person.until("[...document.querySelectorAll('#list li button')].some((line) => line.innerText.includes('onerror'))")
    assert person.run("location.hash") == "", "the key does not stay in the address"
    person.run("[...document.querySelectorAll('#list li button')].find((b) => b.innerText.includes('onerror')).click()")
    person.until("!document.querySelector('#shown').hidden")
    assert person.run("document.querySelector('#question').innerText") == EVIL
    person.type("#text", f"Hello {EVIL}")
    customer.until("document.querySelector('.message.person')")
    assert last(customer, ".message.person .text") == f"Hello {EVIL}"
    assert customer.run("document.querySelector('#notice').innerText") == "A person has answered"
    person.click("#close")
    customer.until("document.querySelector('#notice').hidden")
    for page in (customer, person):
        assert page.run("document.title").startswith("Shop <img src=x")
        assert page.run("document.querySelectorAll('main img, main script').length") == 0
        assert page.trouble() == []


def test_without_the_key_there_is_a_door(chromium: Browser, desk: Live) -> None:
    page = chromium.page(desk.url + "/desk")
    page.until("!document.querySelector('#enter').hidden")
    page.type("#key", "wrong")
    page.until("document.querySelector('#notice').innerText.includes('key')")
    page.run("document.querySelector('#key').value = ''")
    page.type("#key", desk.key)
    page.until("!document.querySelector('#work').hidden")


@pytest.mark.parametrize("language", ["zh-CN", "en-GB"])
def test_on_a_telephone(chromium: Browser, desk: Live, language: str) -> None:
    page = chromium.page(desk.url + "/", size=(360, 640), language=language)
    assert page.run("document.documentElement.lang") == {"zh-CN": "zh-Hans", "en-GB": "en"}[language]
    assert page.run("document.querySelector('#ask button').innerText") == {"zh-CN": "发送", "en-GB": "Send"}[language]
    say(page, "打开的茶叶能退货吗？" + "长" * 200 + " " + "w" * 300)
    assert page.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    assert page.run("document.querySelector('#how').getBoundingClientRect().top >= innerHeight"), "out of the way"
    page.click(".show")
    page.until("document.querySelector('#how').getBoundingClientRect().top < innerHeight")
    page.click("#how-close")
    page.until("document.querySelector('#how').getBoundingClientRect().top >= innerHeight")
    box = page.run("(({top, bottom}) => [top, bottom])(document.querySelector('#text').getBoundingClientRect())")
    assert 0 < box[0] < box[1] <= 640, "the place to write is in sight"
    assert page.trouble() == []


def test_an_article_is_read_where_its_link_leads(chromium: Browser, desk: Live) -> None:
    page = chromium.page(desk.url + "/articles/tea#brewing")
    assert page.run("document.querySelector(':target').innerText") == "Brewing"
    assert page.trouble() == []
