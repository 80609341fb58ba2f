"""No name and no file in a folder leads out of the store or out of the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import kelm
from kelm.errors import InvalidRequest, ModelFormatError
from kelm.store import Name, Store

TRICKS = [
    "",
    ".",
    "..",
    "../x",
    "a/../b",
    "a/b/c",
    "/etc/passwd",
    "a//b",
    "a/",
    "/a",
    "~",
    "a:..",
    "a:b/c",
    "a:",
    ":a",
    "a:b:c",
    "a\\b",
    "a\0",
    "a\n",
    "a b",
    "-rf",
    "--help",
    "a--b",
    "a..b",
    ".hidden",
    "a%2fb",
    "ａ",
    "a\u2024\u2024",
    "a\u2215b",
    "é",
    "a@",
    "@b",
    "a@b/c",
    "a@../b",
    "a@b:0",
    "a@b:latest",
    "a@b:1234567890",
    "a@b@c",
    "x" * 97,
    "a:" + "t" * 65,
    "a\u202e",
]


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_are_not_names(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    for act in (store.resolve, store.remove, store.pull, lambda name: store.import_folder(tmp_path, name)):
        with pytest.raises(InvalidRequest, match="is not a model name"):
            act(name)


@given(st.text(max_size=20) | st.text("aA.-_/:~\\0", max_size=12))
def test_every_name_is_one_folder_and_comes_back(text: str) -> None:
    try:
        name = Name.parse(text)
    except InvalidRequest:
        return
    assert Name.from_folder(name.folder, name.tag) == name
    assert Path("m", name.folder, name.tag + ".json").resolve().parent.parent == Path("m").resolve()
    assert not {"/", "\\", "\0", ":"} & set(name.folder) and not name.folder.startswith((".", "-"))


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"t": np.zeros(2, np.float32)}, folder / "model.safetensors")
    return folder


def test_links_are_followed_inside_the_folder_only(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "home"), checkpoint(tmp_path / "src")
    secret = tmp_path / "secret"
    secret.write_text('{"key": "s3cret"}')
    (folder / "inside.json").write_text('{"fine": 1}')
    (folder / "tokenizer_config.json").symlink_to("inside.json")
    made = store.import_folder(folder, "toy")
    assert json.loads(Path(store.paths(made)["tokenizer_config.json"]).read_text()) == {"fine": 1}
    for target in (secret, Path("../secret")):
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "generation_config.json").symlink_to(target)
        with pytest.raises(ModelFormatError, match=r"generation_config\.json: is a link out of the folder"):
            store.import_folder(folder, "toy2")


def test_linked_subfolder_pipe_and_device_are_refused(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "home"), checkpoint(tmp_path / "src")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelFormatError, match=r"1_Pooling/config\.json: is a link out"):
        store.import_folder(folder, "toy")
    (folder / "1_Pooling").unlink()
    os.mkfifo(folder / "vocab.txt")
    with pytest.raises(ModelFormatError, match=r"vocab\.txt: is not a regular file"):
        store.import_folder(folder, "toy")


def test_pickles_and_code_are_never_opened(tmp_path: Path) -> None:
    """The audit hook sees every open() of the process; nothing but data files may be among them."""
    folder = checkpoint(tmp_path / "src")
    for name in ("pytorch_model.bin", "model.pt", "modeling_evil.py", "__init__.py", "x.pth"):
        (folder / name).write_bytes(b"evil")
    program = f"""
import sys
from pathlib import Path
from kelm.store import Store
def hook(event, args):
    path = str(args[0]) if event == "open" else ""
    if path.startswith({str(folder)!r}) and not path.endswith(("json", "safetensors")):
        raise SystemExit("opened " + path)
sys.addaudithook(hook)
Store(Path({str(tmp_path / "home")!r})).import_folder(Path({str(folder)!r}), "toy")
print("fine")
"""
    env = {**os.environ, "PYTHONPATH": str(Path(kelm.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=env)
    assert done.stdout == "fine\n", done.stderr
