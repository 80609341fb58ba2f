"""What a chat template may rely on, as in transformers."""

from __future__ import annotations

import pytest

from kelm import limits
from kelm.clock import ManualClock
from kelm.errors import InvalidRequest, ModelFormatError
from kelm.text.template import Template


def render(source: str, **variables: object) -> str:
    return Template(source).render({"messages": [], **variables}, ManualClock(86400.0 * 365))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),  # trim_blocks, lstrip_blocks
        ("{% for i in [1,2,3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% for i in [1,2,3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
        ("{{ {'b': '<é>', 'a': 1} | tojson }}", '{"b": "<é>", "a": 1}'),
        ("{{ {'a': [1]} | tojson(indent=1) }}", '{\n "a": [\n  1\n ]\n}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", '{"a": 2, "b": 1}'),
        ("{% generation %}x{{ 1 }}{% endgeneration %}y", "x1y"),
        ("{{ strftime_now('%Y') }}", "1971"),
        ("{% set ns = namespace(n=0) %}{% for i in [1,2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
        ("{{ tools is none }}{{ missing is defined }}", "TrueFalse"),
        ("{{ 2 * 3 ** 2 }}{{ '-' * 3 }}", "18---"),
    ],
)
def test_renders_as_transformers_does(source: str, text: str) -> None:
    assert render(source, tools=None) == text


def test_a_refusal_says_what_the_template_says() -> None:
    with pytest.raises(InvalidRequest, match="refuses these messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_a_failure_is_the_requests() -> None:
    with pytest.raises(InvalidRequest, match="failed on these messages"):
        render("{{ messages[0].content.nothing + 1 }}")


@pytest.mark.parametrize("source", ["{% if %}", "{{ a", "{% for x in %}{% endfor %}", "{{ 'a' | no_such_filter }}"])
def test_a_syntax_error_names_the_line(source: str) -> None:
    with pytest.raises(ModelFormatError, match="chat_template, line 2"):
        Template("\n" + source)


@pytest.mark.parametrize("source", ["{% set n = namespace(_a=1) %}", "{% set n = namespace() %}{% set n._a = 1 %}"])
def test_a_namespace_has_no_private_attributes(source: str) -> None:
    with pytest.raises(InvalidRequest, match="_a"):
        render(source)


def test_output_is_bounded() -> None:
    size = int(limits.TEMPLATE_OUTPUT_BYTES.most) // 1000
    with pytest.raises(InvalidRequest, match="wrote more than"):
        render("{% for i in range(2000) %}{{ text }}{% endfor %}", text="x" * size)


def test_options_are_those_the_template_reads() -> None:
    template = Template("{% if enable_thinking %}{{ messages }}{{ bos_token }}{% endif %}")
    template.check_options({"enable_thinking": True})
    for options in ({"enable_thinkin": True}, {"messages": "x"}, {"bos_token": "<s>"}, {"enable_thinking": {"a": 1}}):
        with pytest.raises(InvalidRequest, match="chat_template_kwargs"):
            template.check_options(options)
    with pytest.raises(InvalidRequest, match="did you mean 'enable_thinking'"):
        template.check_options({"enable_thinkin": True})
