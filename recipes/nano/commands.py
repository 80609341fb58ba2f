"""The commands that nano teaches: one row for each need, with the answer in both languages.

A placeholder in capitals stands for what the user has to fill in. `kelm.tune.commands` compares these rows with
the real command line; a test fails when they part, and then the recipe has to be run again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from noise import wide


@dataclass(frozen=True)
class Row:
    command: str
    en: str
    """Completes "Use `COMMAND` to ..."."""
    zh: str
    """Completes "用 `COMMAND` ..."."""


TABLE: dict[str, Row] = {
    "run": Row("kelm run MODEL", "chat with a model in the terminal.", "在终端里和模型聊天。"),
    "run_once": Row('kelm run MODEL "PROMPT"', "get one answer and exit.", "只要一次回答,答完就退出。"),
    "serve": Row("kelm serve", "start the server with its OpenAI-compatible API.", "启动服务和 OpenAI 兼容的接口。"),
    "serve_d": Row("kelm serve -d", "run the server in the background.", "在后台运行服务。"),
    "serve_port": Row("kelm serve --port PORT", "serve on another port.", "换一个端口启动服务。"),
    "serve_host": Row("kelm serve --host HOST", "let other machines connect.", "让其他机器也能连接。"),
    "shutdown": Row("kelm shutdown", "stop the daemon and everything in it.", "关闭整个服务。"),
    "restart": Row(
        "kelm shutdown",
        "stop the daemon, then `kelm serve -d` to start it again.",
        "先关闭服务,再用 `kelm serve -d` 启动。",
    ),
    "ps": Row("kelm ps", "see the requests that are running.", "查看正在运行的请求。"),
    "ps_models": Row("kelm ps --models", "see the models in memory.", "查看内存里的模型。"),
    "pull": Row("kelm pull MODEL", "download a model.", "下载模型。"),
    "import": Row("kelm import FOLDER --name NAME", "add a model from a local folder.", "从本地文件夹导入模型。"),
    "list": Row("kelm list", "see the models on this machine's disk.", "列出本机硬盘上的模型。"),
    "show": Row("kelm show MODEL", "see a model's details.", "查看模型的详细信息。"),
    "stop": Row("kelm stop MODEL", "take a model out of memory; its files stay.", "把模型移出内存,文件保留。"),
    "rm": Row("kelm rm MODEL", "delete a model from disk.", "从硬盘上删除模型。"),
    "logs": Row("kelm logs", "read the daemon's log.", "查看服务的日志。"),
    "logs_f": Row("kelm logs -f", "follow the log live.", "实时跟踪日志。"),
    "ask": Row('kelm ask "QUESTION"', "ask the built-in helper in your own words.", "用自己的话问内置助手。"),
    "doctor": Row("kelm doctor", "check the installation and this machine.", "检查安装和这台机器。"),
    "config_show": Row("kelm config show", "see the settings and where they come from.", "查看各项设置和来源。"),
    "pretrain": Row("kelm pretrain RECIPE", "train a small model from a recipe.", "按配方从头训练小模型。"),
    "help": Row("kelm --help", "see all commands.", "查看所有命令。"),
    "version": Row("kelm --version", "see the installed version.", "查看版本号。"),
    "ps_json": Row("kelm ps --json", "get the running requests as JSON.", "以 JSON 输出正在运行的请求。"),
    "list_json": Row("kelm list --json", "get the list of models as JSON.", "以 JSON 输出模型列表。"),
}

SEEING = {"ps", "ps_models", "list", "show", "logs", "logs_f", "config_show", "doctor", "help", "version"}
"""Needs whose noun phrases are things to look at: "show me ..." goes with them."""

NEAR = [
    ("stop", "rm"), ("stop", "shutdown"), ("rm", "shutdown"), ("list", "ps_models"), ("list", "ps"),
    ("ps", "ps_models"), ("pull", "import"), ("logs", "ps"), ("logs", "logs_f"), ("run", "serve"),
    ("run", "pull"), ("run", "run_once"), ("serve", "serve_d"), ("show", "list"), ("show", "ps_models"),
    ("config_show", "doctor"), ("config_show", "help"), ("ask", "help"), ("doctor", "logs"), ("version", "doctor"),
    ("pull", "list"), ("shutdown", "serve_d"), ("serve_port", "serve_host"), ("pretrain", "import"),
]  # fmt: skip
"""Pairs that are easily confused, for contrasts such as "I want to A, not to B"."""


def answer(need: str, lang: str) -> str:
    row = TABLE[need]
    return f"Use `{row.command}` to {row.en}" if lang == "en" else wide(f"用 `{row.command}` {row.zh}")


def contrast(one: str, other: str, lang: str) -> str:
    first, second = TABLE[one], TABLE[other]
    if lang == "en":
        return f"Use `{first.command}` to {first.en.rstrip('.')}, and `{second.command}` to {second.en}"
    return wide(f"用 `{first.command}` {first.zh.rstrip('。')};用 `{second.command}` {second.zh}")


COMMANDS: dict[str, tuple[str, ...]] = {
    "": ("--help", "--version"),
    "run": ("MODEL", "PROMPT"),
    "serve": ("MODEL", "--host", "--port", "-d"),
    "shutdown": (),
    "ps": ("--models", "--json"),
    "pull": ("MODEL",),
    "import": ("FOLDER", "--name"),
    "list": ("--json",),
    "show": ("MODEL",),
    "stop": ("MODEL",),
    "rm": ("MODEL",),
    "logs": ("-f",),
    "ask": ("QUESTION",),
    "doctor": (),
    "config show": (),
    "pretrain": ("RECIPE",),
}
"""Every command of Kelm with its arguments and the flags that nano teaches. A test compares this table with the
command line; its hash is in the model's PROVENANCE.json, so that a changed table asks for a new run."""


def commands_sha256() -> str:
    return hashlib.sha256(json.dumps(COMMANDS, sort_keys=True).encode()).hexdigest()
