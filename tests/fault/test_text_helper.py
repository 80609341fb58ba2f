"""The text helper: what is late, large or malicious ends as one failed call, and the next call works."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kelm.errors import InvalidRequest, ModelFormatError, Unavailable
from kelm.testing import tokenizers as tiny
from kelm.text import chat, grammar
from kelm.text.helper import TextHelper
from kelm.text.helper_process import HelperLimits
from kelm.text.helper_sync import SyncTextHelper
from kelm.text.tokenizer import Tokenizer

GOOD = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
HELLO = chat.Chat([{"role": "user", "content": "hello"}])
BOUNDS = HelperLimits(load_s=20, call_s=0.6, memory_bytes=256 << 20)

SLOW = {
    "range": "{% for i in range(10**9) %}x{% endfor %}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "macros": "{% macro a(n) %}{% if n %}{{ a(n-1) }}{{ a(n-1) }}{% endif %}{% endmacro %}{{ a(60) }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "output": "{% for i in range(99999) %}{% for j in range(99999) %}abcdefgh{% endfor %}{% endfor %}",
    "memory": "{% set a = 'x' * 10**9 %}{% set b = a * 10 %}{{ b | length }}",
    "one string": "{{ ('x' * 10**9) | length }}",
    "memory list": "{% set x = namespace(a=[0]) %}{% for i in range(60) %}{% set x.a = x.a + x.a %}{% endfor %}",
    "recursion": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
}
HUNGRY = ("memory", "one string")


def files(folder: Path, template: str = GOOD) -> dict[str, str]:
    return tiny.write(folder, "byte_level", {"chat_template": template})


@pytest.fixture
async def helper() -> AsyncIterator[TextHelper]:
    helper = TextHelper(size=1, bounds=BOUNDS)
    yield helper
    await helper.close()


@pytest.fixture(scope="module")
def sync_helper() -> Iterator[SyncTextHelper]:
    helper = SyncTextHelper(BOUNDS)
    yield helper
    helper.close()


async def test_renders_as_in_process(helper: TextHelper, tmp_path: Path) -> None:
    good = files(tmp_path)
    assert await helper.render_chat(good, HELLO) == chat.render(Tokenizer.load(good), HELLO)
    opened = await helper.check(good)
    assert (opened.vocab_size, opened.chats) == (Tokenizer.load(good).vocab_size, True)


@pytest.mark.parametrize("name", SLOW)
def test_a_hostile_template_is_one_failed_call(name: str, sync_helper: SyncTextHelper, tmp_path: Path) -> None:
    good = files(tmp_path / "good")
    expected = sync_helper.render_chat(good, HELLO)
    bad = files(tmp_path / "bad", SLOW[name])
    start = time.monotonic()
    with pytest.raises(InvalidRequest, match="memory" if name in HUNGRY else None):
        sync_helper.render_chat(bad, HELLO)
    assert time.monotonic() - start < BOUNDS.call_s + 5
    assert sync_helper.render_chat(good, HELLO) == expected


async def test_the_loop_runs_on_while_a_template_hangs(helper: TextHelper, tmp_path: Path) -> None:
    good, bad = files(tmp_path / "good"), files(tmp_path / "bad", SLOW["loops"])
    await helper.check(bad)
    task = asyncio.create_task(helper.render_chat(bad, HELLO))
    longest, last = 0.0, time.monotonic()
    while not task.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    with pytest.raises(InvalidRequest, match="longer than"):
        await task
    assert longest < 0.3
    assert await helper.render_chat(good, HELLO)


async def test_killed_between_calls(helper: TextHelper, tmp_path: Path) -> None:
    good = files(tmp_path)
    await helper.check(good)
    os.kill(helper._idle[0].process.pid, signal.SIGKILL)
    await helper._idle[0].process.wait()
    assert await helper.render_chat(good, HELLO)


async def test_a_caller_that_goes_away_leaves_no_answer_for_the_next(helper: TextHelper, tmp_path: Path) -> None:
    good, bad = files(tmp_path / "good"), files(tmp_path / "bad", SLOW["loops"])
    expected = await helper.render_chat(good, HELLO)
    await helper.check(bad)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(helper.render_chat(bad, HELLO), 0.05)
    assert await helper.render_chat(good, HELLO) == expected


async def test_malformed_files_keep_their_error(helper: TextHelper, tmp_path: Path) -> None:
    broken = files(tmp_path)
    Path(broken["tokenizer.json"]).write_text('{"model": 3}')
    with pytest.raises(ModelFormatError, match=r"tokenizer\.json"):
        await helper.check(broken)
    with pytest.raises(ModelFormatError, match=r"chat_template, line 2"):
        await helper.check(files(tmp_path / "syntax", "\n{% if %}"))
    with pytest.raises(ModelFormatError, match=r"config\.json"):
        (tmp_path / "config.json").write_text("[")
        await helper.check({**files(tmp_path), "config.json": str(tmp_path / "config.json")})


async def test_grammars_are_compiled_outside(helper: TextHelper, tmp_path: Path) -> None:
    good = files(tmp_path)
    await helper.compile_grammar(good, grammar.from_choices(["yes", "no"]))
    with pytest.raises(InvalidRequest, match="grammar"):
        await helper.compile_grammar(good, "start: (((")
    with pytest.raises(InvalidRequest):
        await helper.compile_grammar(good, grammar.from_regex("(" * 5000 + "a" + ")*" * 5000))
    await helper.compile_grammar(good, grammar.from_regex("(a+)+b"))


async def test_the_helper_sees_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KELM_API_KEY", "secret")
    helper = TextHelper(size=1, bounds=BOUNDS)
    await helper.check(files(tmp_path))
    environment = Path(f"/proc/{helper._idle[0].process.pid}/environ").read_bytes()
    await helper.close()
    assert b"KELM_API_KEY" not in environment and b"PATH=" in environment


async def test_a_helper_that_cannot_start_is_nobodys_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(Unavailable):
        await TextHelper(bounds=BOUNDS).check(files(tmp_path))


async def test_lone_surrogates_are_refused(helper: TextHelper, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        await helper.render_chat(files(tmp_path), chat.Chat([{"role": "user", "content": "\ud800"}]))


async def test_the_helper_dies_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed in the middle of a call that would never end."""
    bad = files(tmp_path, SLOW["loops"])
    code = (
        "from kelm.text.helper_sync import SyncTextHelper; from kelm.text.helper_process import HelperLimits;"
        "from kelm.text.chat import Chat; h = SyncTextHelper(HelperLimits(20, 60, 1 << 28));"
        f"h.check({bad!r}); print(h._child[0].pid, flush=True);"
        f"h.render_chat({bad!r}, Chat([{{'role': 'user', 'content': 'x'}}]))"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env={"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    await asyncio.sleep(0.3)
    parent.kill()
    await parent.wait()
    for _ in range(200):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        await asyncio.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the helper outlived its parent")
