"""Chat templates: Jinja source from a checkpoint, rendered in Jinja's immutable sandbox, the way Hugging Face does.

A template is untrusted code. The sandbox keeps it from Python's internals, this module from endless output; endless
time and memory are the helper process's business (helper.py), which is why the daemon never renders by itself.
What a template may rely on is transformers' utils/chat_template_utils.py: trim_blocks, lstrip_blocks, loop controls,
``{% generation %}``, ``tojson`` without HTML escapes, ``raise_exception``, ``strftime_now``.
"""

from __future__ import annotations

import datetime
import difflib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kelm import limits
from kelm.clock import Clock
from kelm.errors import InvalidRequest, ModelFormatError
from kelm.text.spec import NAMED

_WE_SET = ("messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now", *NAMED)
_JINJA_SETS = ("namespace", "dict", "range", "cycler", "joiner", "lipsum", "self", "caller", "loop")
_OURS = frozenset([*_WE_SET, *_JINJA_SETS])
"""Names that a request's chat_template_kwargs can't set."""


class _Refused(jinja2.TemplateError):
    """The template called raise_exception."""


class _Generation(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}`` marks an answer for training; rendering just goes through it."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without underscored attributes, which lead into Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # as Jinja's: namespace(self=...) is legal
        for name in dict(*args[1:], **kwargs):
            _check_attribute(name)
        jinja2.utils.Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace can't have the attribute {name!r}")


class Template:
    """One compiled chat template."""

    def __init__(self, source: str) -> None:
        """Raises ModelFormatError for a syntax error."""
        self.source = source
        self._environment = _environment()
        try:
            self._template = self._environment.from_string(source)
            tree = self._environment.parse(source)
            self.variables = frozenset(jinja2.meta.find_undeclared_variables(tree)) - _OURS
            """What a request may set beside the messages."""
        except jinja2.TemplateSyntaxError as error:
            raise ModelFormatError(f"chat_template, line {error.lineno}: {str(error.message)[:200]}") from None
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError, OverflowError) as error:
            raise ModelFormatError(f"chat_template cannot be compiled: {type(error).__name__}") from None

    @staticmethod
    @lru_cache(maxsize=32)
    def cached(source: str) -> Template:
        """The compiled template of a source seen before."""
        return Template(source)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise InvalidRequest for an option that the template doesn't read, or that isn't a plain value."""
        for name, value in options.items():
            field = f"chat_template_kwargs.{name}"[:80]
            if name not in self.variables:
                near = difflib.get_close_matches(name, self.variables, 1)
                known = f"did you mean {near[0]!r}?" if near else f"it reads {sorted(self.variables) or 'none'}"
                raise InvalidRequest(f"{field}: the model's chat template has no such option; {known}", param=field)
            if value is not None and not isinstance(value, (str, bool, int, float)):
                raise InvalidRequest(f"{field} must be a string, a number or a boolean", param=field)
            if isinstance(value, str) and len(value) > limits.STRING_BYTES.most:
                raise InvalidRequest(f"{field} is longer than {limits.STRING_BYTES.most:.0f} characters", param=field)

    def render(self, variables: Mapping[str, Any], clock: Clock) -> str:
        """The prompt as text. Raises InvalidRequest if the template refuses, fails or writes too much."""
        parts: list[str] = []
        size, most = 0, limits.TEMPLATE_OUTPUT_BYTES.most
        try:
            for part in self._template.generate({**variables, "strftime_now": _strftime(clock)}):
                size += len(part)
                if size > most:
                    raise InvalidRequest(f"the model's chat template wrote more than {most:.0f} characters")
                parts.append(part)
        except _Refused as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {_short(error)}") from None
        except (InvalidRequest, MemoryError):
            raise
        except Exception as error:  # whatever the template's code may raise is the request's failure, not ours
            raise InvalidRequest(f"the model's chat template failed on these messages: {_short(error)}") from None
        return "".join(parts)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Operators that grow their operands run while rendering; Jinja would fold 9 ** (9 ** 9) while compiling."""

    intercepted_binops = frozenset(["**", "*"])


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise, namespace=_Namespace)
    for name in ("lipsum", "cycler", "joiner"):  # objects with methods, which no chat template needs
        environment.globals.pop(name)
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **more: Any) -> str:
    sort_keys = bool(more.get("sort_keys"))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: object) -> None:
    raise _Refused(str(message))


def _strftime(clock: Clock) -> Callable[[str], str]:
    return lambda pattern: datetime.datetime.fromtimestamp(clock.wall_s()).strftime(pattern)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
