"""Settings: command line > environment (KELM_*) > KELM_HOME/config.yaml > default.

Each setting has one name: flag ``--max-num-seqs``, environment ``KELM_MAX_NUM_SEQS``, YAML key ``max_num_seqs``.
A name that is not a setting is an error that lists near matches, wherever it was written. ``home`` is found
before the file is, so it can't be set in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kelm import limits, machine
from kelm.errors import ConfigError, InvalidRequest
from kelm.suggest import did_you_mean

PREFIX = "KELM_"
CONFIG_FILE = "config.yaml"
ELSEWHERE = {"isa"}
"""KELM_* that are no settings: a developer's, read where they act (kelm.ops.native)."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
EXECUTORS = ("auto", "native", "torch")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Settings:
    """Checked values. ``sources`` says where each came from: flag, environment, file or default."""

    home: Path
    host: str
    port: int
    dtype: str
    executor: str
    """What runs decoders; auto: native where it can, else torch."""
    threads: int
    """Threads of the serving worker; default: affinity and cgroup quota."""
    memory: int
    """Bytes that Kelm may use; given as bytes or as a share of what is usable at start."""
    job_threads: int
    """Threads of a job's process."""
    job_memory: int
    """Bytes that a job may allocate; given as ``memory`` is."""
    max_num_seqs: int
    max_queued: int
    step_tokens: int
    api_key: str | None = field(repr=False)
    drain_s: float
    log_level: str
    sources: Mapping[str, str] = field(repr=False, compare=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class Option:
    """How one setting is read: ``parse`` takes text or a YAML value and raises ValueError or InvalidRequest."""

    name: str
    parse: Callable[[Any], Any]
    default: Callable[[], Any]


def load_settings(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of this process. ``flags``: what the command line gave (None: not given).

    Raises ConfigError naming the setting, where it was written, what was got and what is allowed.
    """
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    env = _environment(os.environ if environ is None else environ)
    _refuse_unknown(flags, "flag")
    home = _pick("home", flags, env, {})
    layers = (flags, env, _read_file(Path(home[0]) / CONFIG_FILE))
    picked = {name: _pick(name, *layers) for name in OPTIONS}
    values = {name: value for name, (value, _) in picked.items()}
    return Settings(**values, sources={name: source for name, (_, source) in picked.items()})


def shown(settings: Settings) -> dict[str, tuple[object, str]]:
    """Setting -> (printable value, source). A key is never printed."""
    values = {name: getattr(settings, name) for name in OPTIONS}
    values["home"] = str(settings.home)
    values["api_key"] = None if settings.api_key is None else "(set)"
    return {name: (value, settings.sources[name]) for name, value in values.items()}


def _pick(name: str, flags: Mapping[str, Any], env: Mapping[str, str], file: Mapping[str, Any]) -> tuple[Any, str]:
    option = OPTIONS[name]
    places = (
        (flags, "flag", "--" + name.replace("_", "-")),
        (env, "environment", PREFIX + name.upper()),
        (file, "file", f"{CONFIG_FILE}: {name}"),
    )
    for layer, source, written in places:
        if name in layer:
            try:
                return option.parse(layer[name]), source
            except (ValueError, InvalidRequest) as error:
                raise ConfigError(f"{written}: {error}", param=name) from None
    return option.default(), "default"


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """KELM_* of the environment by setting name; an empty value means not set, as in compose files."""
    found = {name[len(PREFIX) :].lower(): text for name, text in environ.items() if name.startswith(PREFIX)}
    found = {name: text for name, text in found.items() if name not in ELSEWHERE}
    _refuse_unknown(found, "environment variable", lambda name: PREFIX + name.upper())
    return {name: text for name, text in found.items() if text}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            raw = stream.read(int(limits.CONFIG_BYTES.most) + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > limits.CONFIG_BYTES.most:
        raise ConfigError(f"{path}: longer than {limits.CONFIG_BYTES.most} bytes")
    values = _parse_yaml(path, raw)
    _refuse_unknown({name: value for name, value in values.items() if name != "home"}, f"key in {path}")
    if "home" in values:
        raise ConfigError(f"{path}: home can't be set in the file that is found through it; set KELM_HOME")
    return {name: value for name, value in values.items() if value is not None}


def _parse_yaml(path: Path, raw: bytes) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{path}: must be a mapping of setting: value, got {type(values).__name__}")
    return values


def _refuse_unknown(names: Mapping[str, Any], what: str, spell: Callable[[str], str] = str) -> None:
    for name in names:
        if name not in OPTIONS:
            near = did_you_mean(spell(name), [spell(option) for option in OPTIONS])
            raise ConfigError(f"unknown {what} {spell(name)}{near}", param=name)


def _number(bound: limits.Bound) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        if isinstance(value, str):
            with suppress(ValueError):  # the bound says what was wanted
                value = int(value) if bound.integer else float(value)
        bound.check(value)
        return value if bound.integer else float(value)

    return parse


def _one_of(words: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"must be one of {', '.join(words)}, got {value!r}{did_you_mean(str(value), words)}")
        return value

    return parse


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or any(c.isspace() for c in value):
        raise ValueError("must be text without spaces or control characters")
    return value


def _home(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError(f"must be a folder, got {value!r}")
    return Path(os.path.abspath(Path(value).expanduser()))  # noqa: PTH100  (Path.absolute keeps "..")


_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[kmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)


def parse_memory(value: Any) -> int:
    """Bytes from ``8GiB``, ``512M``, a number of bytes, ``70%`` or a share up to 1 of what is usable now."""
    match = _SIZE.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if match is None:
        raise ValueError(f"must be like 8GiB, 512MiB, 70% or 0.7, got {value!r}")
    number, unit = float(match[1]), match[2].lower()
    share = number / 100 if unit == "%" else number if not unit and number <= 1 else None
    if share is not None:
        limits.MEMORY_SHARE.check(share)
        return int(share * machine.usable_memory_bytes())
    size_bytes = int(number * _UNITS[unit])
    limits.MEMORY_BYTES.check(size_bytes)
    return size_bytes


def _fixed(value: Any) -> Callable[[], Any]:
    return lambda: value


OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option("home", _home, lambda: Path.home() / ".kelm"),
        Option("host", _text, _fixed("127.0.0.1")),
        Option("port", _number(limits.PORT), _fixed(limits.PORT.default)),
        Option("dtype", _one_of(DTYPES), _fixed("auto")),
        Option("executor", _one_of(EXECUTORS), _fixed("auto")),
        Option("threads", _number(limits.THREADS), machine.default_threads),
        Option("memory", parse_memory, lambda: parse_memory(limits.MEMORY_SHARE.default)),
        Option("job_threads", _number(limits.THREADS), machine.default_threads),
        Option("job_memory", parse_memory, lambda: parse_memory(limits.JOB_MEMORY_SHARE.default)),
        Option("max_num_seqs", _number(limits.MAX_NUM_SEQS), _fixed(limits.MAX_NUM_SEQS.default)),
        Option("max_queued", _number(limits.MAX_QUEUED), _fixed(limits.MAX_QUEUED.default)),
        Option("step_tokens", _number(limits.STEP_TOKENS), _fixed(limits.STEP_TOKENS.default)),
        Option("api_key", _text, _fixed(None)),
        Option("drain_s", _number(limits.DRAIN_S), _fixed(limits.DRAIN_S.default)),
        Option("log_level", _one_of(LOG_LEVELS), _fixed("info")),
    )
}
