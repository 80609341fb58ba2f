"""`kelm compress`: what can be refused is refused here, the job does the rest."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kelm import limits
from kelm.cli import daemon, following, loading, shelf
from kelm.cli.client import running
from kelm.cli.cost import print_record
from kelm.cli.tables import print_json
from kelm.compress import request
from kelm.compress.request import default_name
from kelm.config import load_settings
from kelm.errors import ConfigError, InvalidRequest
from kelm.store import Name, Store, compression
from kelm.store.compression import Compression
from kelm.text.rows import decode
from kelm.wire.jobs import Compress

__all__ = ["Wanted", "compress", "default_name", "read_layers"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asked for, beside the method."""

    text: Path | None
    out: Path | None
    wait: bool
    as_json: bool


def read_layers(text: str | None) -> tuple[int, ...]:
    """``3,5`` -> (3, 5). Raises InvalidRequest."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isascii() and part.isdigit() and len(part) < 5 for part in parts):
        raise InvalidRequest(f"--drop must be numbers of layers such as 3,5; got {limits.shown(text)}", param="drop")
    return tuple(sorted({int(part) for part in parts}))


def compress(spec: Compress, wanted: Wanted) -> None:
    """Start the job; with ``wait``, serve its result and print what it cost. Raises what can be known before it starts,
    and with ``wait`` what the job fails with."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("kelm compress needs torch, not installed here: pip install 'kelm[torch]'")
    store = Store(load_settings().home)
    if Name.parse(spec.model).org is not None:
        shelf.ensure(spec.model)
    source = request.check(spec, store)
    files = store.paths(source)
    request.check_config(spec, json.loads(Path(files["config.json"]).read_bytes()), compression.read(files))
    data = None if wanted.text is None else _read(wanted.text)
    if wanted.out is not None:
        if not wanted.wait:
            raise InvalidRequest("--out draws the finished job: give --wait too")
        from kelm.evaluate import report

        report.check_out(wanted.out)
    client = running(load_settings()) or daemon.start({})
    pid = following.start(client, msgspec.to_builtins(spec), data)["pid"]
    if not wanted.wait:
        print(f"job {pid} makes {Name.parse(spec.name).short}: {following.advice(pid)}; `kelm ps` shows how far it is")
        return
    result = following.wait(client, pid)
    loading.bring_up(client, result["model"])
    _show(result, wanted)


def _show(result: dict[str, object], wanted: Wanted) -> None:
    record = msgspec.convert(result["compression"], Compression)
    name = Name.parse(str(result["model"])).short
    if wanted.out is not None:
        _draw(wanted.out, name, record)
    if wanted.as_json:
        print_json(result)
        return
    print_record(record)
    print(f"\n{name} is served" + (f"; the picture is in {wanted.out}" if wanted.out else ""))


def _draw(out: Path, name: str, record: Compression) -> None:
    from kelm.compress import picture
    from kelm.store import atomic

    try:
        atomic.write_file(out, picture.png(name, record))
    except OSError as error:
        raise InvalidRequest(f"{out} can't be written: {error.strerror}") from None


def _read(path: Path) -> str:
    """Raises InvalidRequest: it can't be read, is too long, or no text."""
    most = int(limits.JOB_DATA_BYTES.most)
    try:
        with path.open("rb") as stream:
            raw = stream.read(most + 1)
    except OSError as error:
        raise InvalidRequest(f"{path.name} can't be read: {error.strerror}") from None
    if len(raw) > most:
        raise InvalidRequest(f"{path.name} is longer than {most} bytes; a part of it will do")
    text = decode(raw, path.name)
    if not text.strip():
        raise InvalidRequest(f"{path.name}: there is no text in it")
    return text
