"""`kelm ask`: answers bound by the command tree, and commands that are offered, never run as they stand."""

from __future__ import annotations

from typing import Annotated

import llguidance
import pytest
import typer
import typer.main
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from kelm.apps import answer_grammar
from kelm.apps.ask import DESTRUCTIVE, ENDLESS, Command, interpret, request
from kelm.apps.commands import Node, Verb, verbs
from kelm.cli import main as command_line
from kelm.errors import InvalidRequest

PIECES = ["kelm", "kel", "m", " ps", " --", "models", " stop", " MODEL", " kill", "`", " ", "`kelm", "Use", "用", "elm"]


def small_tree() -> Node:
    """A program with the shapes that matter: group, flags with and without values, arguments of both kinds."""
    app = typer.Typer(add_completion=False)
    config, key = typer.Typer(), typer.Typer()
    app.add_typer(config, name="config")
    app.add_typer(key, name="key")

    @app.callback()
    def root(version: Annotated[bool, typer.Option("--version")] = False) -> None: ...
    @app.command()
    def ps(models: Annotated[bool, typer.Option("--models", "-m")] = False) -> None: ...
    @app.command()
    def stop(model: str) -> None: ...
    @app.command()
    def run(model: str, prompt: Annotated[str, typer.Argument()] = "") -> None: ...
    @app.command("import")
    def import_(folder: str, name: Annotated[str, typer.Option("--name")] = "") -> None: ...
    @app.command(hidden=True)
    def secret() -> None: ...
    @config.command()
    def show() -> None: ...
    @app.command()
    def logs(
        pid: Annotated[int, typer.Argument()] = 0, follow: Annotated[bool, typer.Option("-f")] = False
    ) -> None: ...
    @app.command()
    def tune(base: str, data: str) -> None: ...
    @key.command()
    def create(tenant: str, days: Annotated[int, typer.Option("--valid-days", metavar="N")] = 30) -> None: ...
    @key.command("show")
    def show_key(key_id: Annotated[str, typer.Argument(metavar="ID")]) -> None: ...
    @key.command()
    def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")]) -> None: ...

    return typer.main.get_command(app)


TREE = small_tree()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Bytes and a few pieces that straddle every border of the grammar."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(["<|end|>", *alphabet])}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens(PIECES)
    return made


def accepts(tokenizer: Tokenizer, text: str, tree: Node = TREE) -> bool:
    guide = llguidance.LLTokenizer(tokenizer.to_str(), eos_token=0)
    matcher = llguidance.LLMatcher(guide, answer_grammar.lark(verbs(tree)))
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(text).ids
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def test_the_tree_is_read_whole() -> None:
    found = {" ".join(verb.words): verb for verb in verbs(TREE)}
    expected = {"", "ps", "stop", "run", "import", "logs", "tune"}
    expected |= {"config show", "key create", "key show", "key revoke"}
    assert set(found) == expected, "hidden commands stay hidden, and a group is no command"
    assert [(a.placeholder, a.required) for a in found["run"].arguments] == [("MODEL", True), ("PROMPT", False)]
    assert ("--models", "-m") in [option.flags for option in found["ps"].options]
    assert [o.placeholder for o in found["import"].options if "--name" in o.flags] == ["NAME"]


@pytest.mark.parametrize(
    "text",
    [
        "Use `kelm ps --models` to see the models.",
        "用 `kelm stop MODEL` 把模型移出内存。",
        "`kelm ps -m`",
        "`kelm run MODEL`",
        '`kelm run MODEL "PROMPT"`',
        "`kelm import FOLDER --name NAME`",
        "`kelm import --name NAME FOLDER`",
        "`kelm config show` and `kelm --version`, or `kelm ps --help`",
        "`kelm logs`",
        "`kelm logs PID`",
        "`kelm logs -f PID`",
        "`kelm logs PID -f`",
        "`kelm tune BASE DATA`",
        "`kelm key create TENANT`",
        "`kelm key create TENANT --valid-days VALID-DAYS`",
        "`kelm key revoke ID`",
        "Kelm is a kernel. No command at all.",
        "",
    ],
)
def test_real_commands_pass(tokenizer: Tokenizer, text: str) -> None:
    assert accepts(tokenizer, text)


@pytest.mark.parametrize(
    "text",
    [
        "`kelm kill MODEL`",
        "`kelm ps --all`",
        "`kelm stop`",
        "`kelm stop --models MODEL`",
        "`kelm stop llama`",
        "`kelm secret`",
        "`kelm config`",
        "`kelm`",
        "`rm -rf /`",
        "type kelm kill to stop",
        "`kelm ps` and kelm kill",
        "`kelm ps",
        "`kelm import FOLDER --name`",
        "`kelm key`",
        "`kelm key TENANT`",
        "`kelm revoke ID`",
        "`kelm key revoke TENANT`",
        "`kelm key create`",
        "`kelm config create TENANT`",
        "`kelm tune BASE`",
        "`kelm tune DATA BASE`",
    ],
)
def test_nothing_else_does(tokenizer: Tokenizer, text: str) -> None:
    assert not accepts(tokenizer, text)


def test_the_grammar_follows_the_tree(tokenizer: Tokenizer) -> None:
    app = typer.Typer(add_completion=False)

    @app.command()
    def kill(pid: int) -> None: ...
    @app.command()
    def other() -> None: ...

    tree = typer.main.get_command(app)
    assert accepts(tokenizer, "`kelm kill PID`", tree)
    assert not accepts(tokenizer, "`kelm ps`", tree)


def test_the_request_is_greedy_and_bound() -> None:
    body = request("helper", "what runs?", TREE)
    assert (body["model"], body["temperature"]) == ("helper", 0)
    assert body["messages"] == [{"role": "user", "content": "what runs?"}]
    assert body["grammar"] == answer_grammar.lark(verbs(TREE))


def test_a_complete_command_is_offered() -> None:
    answer = interpret("Use `kelm ps --models` to see.", "what is loaded?", TREE)
    assert answer.command == Command(("ps", "--models"), ())
    assert answer.command.arguments() == ["ps", "--models"]
    assert not answer.command.destructive


def test_a_placeholder_has_to_be_filled_in() -> None:
    command = interpret("Use `kelm stop MODEL` to free it.", "free memory", TREE).command
    assert command is not None
    assert (command.missing, command.destructive) == (("MODEL",), True)
    with pytest.raises(ValueError, match="fill in MODEL"):
        command.arguments()
    filled = command.fill("MODEL", "my model; rm -rf /")
    assert filled.arguments() == ["stop", "my model; rm -rf /"], "one argument, whatever is in it"
    assert str(filled) == "kelm stop 'my model; rm -rf /'"
    with pytest.raises(ValueError, match="NAME"):
        command.fill("NAME", "x")
    assert command.fill("MODEL", "-5").arguments() == ["stop", "-5"], "a negative number is no flag"
    for flag in ("--all", "-f", "-5f", "-", ""):
        with pytest.raises(InvalidRequest, match="MODEL must not"):
            command.fill("MODEL", flag)


@pytest.mark.parametrize("code", ["kelm key revoke ID", "kelm key create TENANT", "kelm stop MODEL"])
def test_what_takes_something_away_is_known_by_its_whole_verb(code: str) -> None:
    command = interpret(f"`{code}`", "?", TREE).command
    assert command is not None
    assert command.destructive


@pytest.mark.parametrize("code", ["kelm key show ID", "kelm ps", "kelm config show"])
def test_other_verbs_of_its_group_do_not_alarm(code: str) -> None:
    command = interpret(f"`{code}`", "?", TREE).command
    assert command is not None
    assert not command.destructive
    assert not command.endless


def test_a_value_is_no_verb() -> None:
    command = interpret("`kelm key show ID`", "?", TREE).command
    assert command is not None
    filled = command.fill("ID", "revoke")
    assert (filled.arguments(), filled.destructive) == (["key", "show", "revoke"], False)


def test_values_of_flags_are_missing_too() -> None:
    command = interpret('`kelm run MODEL "PROMPT"`', "?", TREE).command
    assert command is not None
    assert command.missing == ("MODEL", "PROMPT")
    imported = interpret("`kelm import FOLDER --name NAME`", "?", TREE).command
    assert imported is not None
    assert imported.missing == ("FOLDER", "NAME")


@pytest.mark.parametrize(
    ("question", "filled"),
    [
        ("how do I unload llama?", ("stop", "llama:latest")),
        ("unload LLAMA:latest please", ("stop", "llama:latest")),
        ("怎么卸载llama", ("stop", "llama:latest")),
        ("unload llama3", ("stop", "MODEL")),
        ("unload llama and qwen", ("stop", "MODEL")),
        ("unload it", ("stop", "MODEL")),
        ("unload llama3.2 or llama:7b", ("stop", "MODEL")),
        ("unload meta/llama", ("stop", "MODEL")),
        ("unload other@llama", ("stop", "MODEL")),
        ("unload llama@support", ("stop", "llama:latest@support")),
        ("unload llama@support.", ("stop", "llama:latest@support")),
        ("unload llama@support:3.", ("stop", "llama:latest@support:3")),
        ("unload qwen:7b@my-faq, please", ("stop", "qwen:7b@my-faq")),
        ("unload llama@support and llama", ("stop", "MODEL")),
        ("unload llama@", ("stop", "MODEL")),
    ],
)
def test_a_model_that_the_question_names_is_filled_in(question: str, filled: tuple[str, ...]) -> None:
    answer = interpret("`kelm stop MODEL`", question, TREE, ["llama:latest", "qwen:7b"])
    assert answer.command is not None
    assert answer.command.words == filled


def test_the_base_of_a_tuning_is_a_model_too() -> None:
    command = interpret("`kelm tune BASE DATA`", "tune llama on mails.csv", TREE, ["llama:latest"]).command
    assert command == Command(("tune", "llama:latest", "DATA"), ("DATA",))


@pytest.mark.parametrize(
    "code",
    [
        *("kelm kill MODEL", "rm -rf /", "kelm ps --all", "kelm secret", "kelm stop llama", "kelm 'x", "kelm"),
        *("kelm key", "kelm key revoke TENANT", "kelm revoke ID", "kelm key ID"),
    ],
)
def test_what_the_tree_does_not_know_is_never_offered(code: str) -> None:
    assert interpret(f"Use `{code}`.", "?", TREE, ["llama"]).command is None


QUIET = {"", "ps", "pull", "import", "list", "show", "ask", "doctor", "config show", "versions", "nice", "why"}
QUIET |= {"key list", "cluster plan"}
"""Verbs that a bare Enter may run: they show or add something, or can be taken back, and are done soon."""


def test_every_verb_of_the_command_line_has_been_judged() -> None:
    """A new command has to be put among those that need a plain yes, or here among those that don't."""
    known = {" ".join(verb.words) for verb in verbs(typer.main.get_command(command_line.app))}
    assert known == DESTRUCTIVE | ENDLESS | QUIET
    assert not QUIET & (DESTRUCTIVE | ENDLESS)


def test_no_command_no_offer() -> None:
    assert interpret("Sorry, I don't know that.", "weather?", TREE).command is None


def test_verbs_are_plain_data() -> None:
    assert all(isinstance(verb, Verb) for verb in verbs(TREE))
