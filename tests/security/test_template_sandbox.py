"""A chat template is untrusted code: it reaches nothing of Python, and says so as a failed request."""

from __future__ import annotations

import pytest

from kelm.clock import ManualClock
from kelm.errors import InvalidRequest, ModelFormatError
from kelm.text.template import Template

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__ }}",
    "{{ ''.__class__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['os'] }}",
    "{{ strftime_now.__closure__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ dict.__base__ }}",
    "{{ (messages | attr('__class__')).__name__ }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ ('%s' | format(messages)).__class__ }}",
    "{% set f = '{0.__class__}'.format %}{{ f(1) }}",
    "{{ ['{0.__class__.__init__}'] | map('format', messages) | list }}",
    "{% set ns = namespace(__class__=1) %}",
    "{% set ns = namespace() %}{% set ns.__dict__ = 1 %}",
    "{{ messages.append(1) }}",
    "{{ messages.clear() }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends 'x' %}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ config.items() }}",
    "{{ request.application.__globals__ }}",
    "{{ [].__class__.__base__.__subclasses__()[132].__init__.__globals__['popen']('id') }}",
    "{{ (1).__class__.__bases__[0] }}",
    "{% for k in range(10**9) %}{% endfor %}",
    "{{ caller() }}",
    "{% set a = (x for x in y) %}",
    "{{ exec('1') }}",
    "{{ import('os') }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out(source: str) -> None:
    messages = [{"role": "user", "content": "x"}]
    try:
        text = Template(source).render({"messages": messages}, ManualClock())
    except (InvalidRequest, ModelFormatError) as error:
        assert "/" not in error.message.replace("'/etc/passwd'", "")
    else:  # Jinja's undefined: an empty string, nothing reached
        assert not any(word in text for word in ("class", "function", "module", "root:", "uid="))
    assert messages == [{"role": "user", "content": "x"}]
