"""`kelm ask`: answers bound by the command tree, and commands that are offered, never run as they stand."""

from __future__ import annotations

from typing import Annotated

import llguidance
import pytest
import typer
import typer.main
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from kelm.apps import answer_grammar
from kelm.apps.ask import Command, interpret, request
from kelm.apps.commands import Node, Verb, verbs
from kelm.errors import InvalidRequest

PIECES = ["kelm", "kel", "m", " ps", " --", "models", " stop", " MODEL", " kill", "`", " ", "`kelm", "Use", "用", "elm"]


def small_tree() -> Node:
    """A program with the shapes that matter: group, flags with and without values, arguments of both kinds."""
    app = typer.Typer(add_completion=False)
    config = typer.Typer()
    app.add_typer(config, name="config")

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
    assert set(found) == {"", "ps", "stop", "run", "import", "config show"}, "hidden commands stay hidden"
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
    for flag in ("--all", "-f", ""):
        with pytest.raises(InvalidRequest, match="MODEL must not"):
            command.fill("MODEL", flag)


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
    ],
)
def test_a_model_that_the_question_names_is_filled_in(question: str, filled: tuple[str, ...]) -> None:
    answer = interpret("`kelm stop MODEL`", question, TREE, ["llama:latest", "qwen:7b"])
    assert answer.command is not None
    assert answer.command.words == filled


@pytest.mark.parametrize(
    "code", ["kelm kill MODEL", "rm -rf /", "kelm ps --all", "kelm secret", "kelm stop llama", "kelm 'x", "kelm"]
)
def test_what_the_tree_does_not_know_is_never_offered(code: str) -> None:
    assert interpret(f"Use `{code}`.", "?", TREE, ["llama"]).command is None


def test_no_command_no_offer() -> None:
    assert interpret("Sorry, I don't know that.", "weather?", TREE).command is None


def test_verbs_are_plain_data() -> None:
    assert all(isinstance(verb, Verb) for verb in verbs(TREE))
