"""memory/ledger.py: granted before it is made."""

import pytest

from kelm.errors import OutOfMemory
from kelm.memory.ledger import Ledger


def test_a_refusal_says_what_is_missing_and_changes_nothing() -> None:
    ledger = Ledger(100)
    ledger.grant("kv", 60)
    with pytest.raises(OutOfMemory, match=r"weights:m needs 50 bytes and 40 .* 10 bytes are missing"):
        ledger.grant("weights:m", 50)
    assert ledger.granted_bytes == 60
    assert ledger.line("weights:m") == 0


def test_granting_a_line_again_replaces_it() -> None:
    ledger = Ledger(100)
    ledger.grant("kv", 60)
    ledger.grant("kv", 100)
    ledger.grant("kv", 10)
    assert ledger.granted_bytes == 10
    with pytest.raises(OutOfMemory):
        ledger.grant("kv", 101)
    assert ledger.line("kv") == 10


def test_release_gives_back() -> None:
    ledger = Ledger(100)
    ledger.grant("kv", 100)
    ledger.release("kv")
    ledger.release("never asked for")
    ledger.grant("weights", 100)
