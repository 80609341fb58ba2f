"""Grammars of one model's requests: its compiler is made when the first request wants one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kelm.errors import UnsupportedModel

if TYPE_CHECKING:
    from kelm.text.grammar import GrammarCompiler, GrammarState


class Grammars:
    """``files``: the checkpoint's, name -> path; its tokenizer is read from them."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files
        self._compiler: GrammarCompiler | None = None

    def start(self, grammar: str, known: list[int]) -> GrammarState:
        """The state after the ``known`` tokens of an answer.

        Raises InvalidRequest for a grammar that doesn't compile or that ``known`` doesn't fit, UnsupportedModel for a
        model without a tokenizer.
        """
        if "tokenizer.json" not in self._files:
            raise UnsupportedModel("a grammar needs the model's tokenizer, and it has none in tokenizer.json")
        if self._compiler is None:
            from kelm.text.grammar import GrammarCompiler  # not every worker needs its libraries

            self._compiler = GrammarCompiler.for_tokenizer(self._files)
        return self._compiler.start(grammar, known)
