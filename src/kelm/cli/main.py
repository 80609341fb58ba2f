"""The commands' names, arguments and help. What they do is in the other files of this room, imported when called."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kelm.errors import ConfigError, InvalidRequest, KelmError

FAILED, REFUSED, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="kelm",
    help="A kernel for language models: one daemon runs many models for many people on one machine.",
    epilog="Settings: flags, KELM_* in the environment, KELM_HOME/config.yaml; see `kelm config show`.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
config_app = typer.Typer(help="Look at the settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")
cluster_app = typer.Typer(help="Several machines: one model over them, or the same one on each.", no_args_is_help=True)
app.add_typer(cluster_app, name="cluster")


def main() -> NoReturn:
    """Run the command of sys.argv. Exit codes: 0 ok, 1 failed, 2 usage or refused."""
    try:
        app(prog_name="kelm")
    except KelmError as error:
        print(f"kelm: {error.message}", file=sys.stderr)
        sys.exit(REFUSED if isinstance(error, ConfigError | InvalidRequest) else FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    sys.exit(0)


def _models(incomplete: str) -> list[str]:
    """Shell completion of model names."""
    from kelm.config import load_settings
    from kelm.store import Store

    names = (name.short for name in Store(load_settings().home).names())
    return [name for name in names if name.startswith(incomplete)]


def _version(wanted: bool) -> None:
    if wanted:
        from kelm import __version__

        print(f"kelm {__version__}")
        raise typer.Exit


Model = Annotated[str, typer.Argument(metavar="MODEL", help="name[:tag] or org/name[:tag]", autocompletion=_models)]
Models = Annotated[
    list[str], typer.Argument(metavar="MODEL...", help="name[:tag] or org/name[:tag]", autocompletion=_models)
]
Json = Annotated[bool, typer.Option("--json", help="JSON, for scripts")]
Value = str | None
Nodes = Annotated[int | None, typer.Option("--nodes", metavar="N", help="so many equal nodes [2]")]
Described = Annotated[
    list[str] | None,
    typer.Option("--node", metavar="NODE", help="NAME,power=8,bandwidth=1,memory=2GiB; again for more"),
]


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and exit", callback=_version, is_eager=True)
    ] = False,
) -> None: ...


@app.command()
def run(
    model: Model,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="answer this and exit")] = None,
) -> None:
    """Chat with a model, or answer one prompt.

    With PROMPT, or text on standard input, answers it and exits. Starts the daemon if none runs, and pulls the model
    if it is not here. In a chat Ctrl-C cancels the answer and /bye ends.
    """
    from kelm.cli import chat

    chat.run(model, prompt)


@app.command()
def serve(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="bring this model up too", autocompletion=_models)
    ] = None,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="in the background; returns when it is ready")] = False,
    host: Annotated[Value, typer.Option(metavar="ADDRESS", help="listen here [127.0.0.1]")] = None,
    port: Annotated[Value, typer.Option(metavar="N", help="listen here; 0 takes a free one [8420]")] = None,
    dtype: Annotated[Value, typer.Option(metavar="TYPE", help="auto, float32, bfloat16, float16 [auto]")] = None,
    threads: Annotated[Value, typer.Option(metavar="N", help="of the worker [what the machine grants]")] = None,
    memory: Annotated[Value, typer.Option(metavar="SIZE", help="8GiB, or a share of what is free [70%]")] = None,
    max_num_seqs: Annotated[Value, typer.Option(metavar="N", help="sequences in one step [64]")] = None,
    max_queued: Annotated[Value, typer.Option(metavar="N", help="waiting requests; over it: 429 [1024]")] = None,
    step_tokens: Annotated[Value, typer.Option(metavar="N", help="tokens in one step [512]")] = None,
    api_key: Annotated[Value, typer.Option(metavar="KEY", help="clients must send it [none]")] = None,
    drain_s: Annotated[Value, typer.Option(metavar="SECONDS", help="for unfinished requests at the end [5]")] = None,
    log_level: Annotated[Value, typer.Option(metavar="LEVEL", help="debug, info, warning, error [info]")] = None,
) -> None:
    """Run the daemon with its OpenAI doors."""
    from kelm.cli import daemon

    flags = {name: value for name, value in locals().items() if name not in ("model", "detach", "daemon")}
    (daemon.detach if detach else daemon.serve)(flags, model)


@app.command()
def shutdown() -> None:
    """End the daemon after it has drained."""
    from kelm.cli import daemon

    daemon.shutdown()


@app.command()
def ps(
    models: Annotated[bool, typer.Option("--models", help="the models in memory instead of the requests")] = False,
    as_json: Json = False,
) -> None:
    """List the running requests, or loaded models.

    Models in memory with --models, the requests being answered without.
    """
    from kelm.cli import running

    running.ps(models, as_json)


@app.command()
def pull(models: Models) -> None:
    """Download models from the Hugging Face hub.

    HF_ENDPOINT, HF_TOKEN and HF_HOME are honoured; what the Hugging Face cache holds is linked.
    """
    from kelm.cli import shelf

    for model in models:
        shelf.pull(model)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="with config.json and safetensors")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="[the folder's name]")] = None,
) -> None:
    """Take a model from a local folder."""
    from kelm.cli import shelf

    shelf.import_(folder, name)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the models on this machine."""
    from kelm.cli import shelf

    shelf.list_(as_json)


@app.command()
def show(model: Model, as_json: Json = False) -> None:
    """Show a model: shape, files, origin."""
    from kelm.cli import shelf

    shelf.show(model, as_json)


@app.command()
def stop(model: Model) -> None:
    """Unload a model; its requests end."""
    from kelm.cli import running

    running.stop(model)


@app.command()
def rm(models: Models) -> None:
    """Delete models from this machine."""
    from kelm.cli import shelf

    for model in models:
        shelf.rm(model)


@app.command()
def ask(question: Annotated[str, typer.Argument(metavar="QUESTION", help="in English or Chinese")]) -> None:
    """Ask which command does what you want.

    The model that comes with Kelm answers, and offers to run the command that it names.
    """
    from kelm.cli import ask as asking

    asking.ask(question, app)


@app.command()
def pretrain(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="a YAML file", exists=True, dir_okay=False)],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="of the finished model [model/ beside RECIPE]")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="begin anew instead of going on")] = False,
) -> None:
    """Train a small model from a recipe.

    Ctrl-C stops it at a checkpoint, and the same command goes on from there. `kelm import` takes the finished folder.
    """
    from kelm.cli import training

    training.pretrain(recipe, out or recipe.parent / "model", fresh)


@app.command("eval", hidden=True)
def eval_(
    model: Model,
    task: Annotated[Path, typer.Argument(metavar="TASK", help="a JSON Lines file", exists=True, dir_okay=False)],
    out: Annotated[Path | None, typer.Option("--out", metavar="PNG", help="draw the figures into this file")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="the first N rows only")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", help="of each generated answer")] = 256,
    as_json: Json = False,
) -> None:
    """Measure how good a model is at a task.

    The fields of TASK's rows say what is measured. text: perplexity. text and label: accuracy and F1. prompt (or
    messages) and reference: BLEU, ROUGE and exact match. The model runs in this process.
    """
    from kelm.cli import evaluating

    evaluating.evaluate(model, task, evaluating.Wanted(out, limit, max_tokens, as_json))


@app.command("logs")
def logs_(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on as the log grows")] = False,
    lines: Annotated[int, typer.Option("-n", metavar="N", min=0, help="the last N lines")] = 100,
) -> None:
    """Print the log of the background daemon."""
    from kelm.cli import logs

    logs.show(follow, lines)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has and lacks.

    The exit code is 1 when something lacks without which nothing works.
    """
    from kelm.cli import report

    report.doctor(as_json)


@config_app.command("show")
def config_show(as_json: Json = False) -> None:
    """Print each setting, its value and where it came from."""
    from kelm.cli import report

    report.config_show(as_json)


@cluster_app.command("plan")
def cluster_plan(model: Model, nodes: Nodes = None, node: Described = None, as_json: Json = False) -> None:
    """Say which node would compute which layers.

    Powers are in GFLOP/s, bandwidths in GB/s (or in one unit for all nodes). The plan makes the slowest node as early
    as it can be, and keeps to every node's memory.
    """
    from kelm.cli import cluster

    cluster.plan(model, cluster.Nodes(nodes, node or []), as_json)


@cluster_app.command("run")
def cluster_run(
    model: Model,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="[standard input]")] = None,
    nodes: Nodes = None,
    node: Described = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", help="of the answer")] = 256,
    temperature: Annotated[float | None, typer.Option("--temperature", metavar="T", help="[the model's own]")] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="the same tokens again [a fresh one]")] = None,
) -> None:
    """Answer one prompt with a model that is split over processes.

    Each holds only its layers; `kelm cluster plan` says which. The answer is what one process would give.
    """
    from kelm.cli import cluster

    cluster.run(model, prompt, cluster.Nodes(nodes, node or []), cluster.Answer(max_tokens, temperature, seed))


@cluster_app.command("serve")
def cluster_serve(
    model: Model,
    replicas: Annotated[int, typer.Option("--replicas", metavar="N", help="each on a node of its own")] = 2,
    host: Annotated[Value, typer.Option(metavar="ADDRESS", help="listen here [127.0.0.1]")] = None,
    port: Annotated[Value, typer.Option(metavar="N", help="listen here; 0 takes a free one [8420]")] = None,
    dtype: Annotated[Value, typer.Option(metavar="TYPE", help="auto, float32, bfloat16, float16 [auto]")] = None,
    threads: Annotated[Value, typer.Option(metavar="N", help="of all replicas together [what there are]")] = None,
    memory: Annotated[Value, typer.Option(metavar="SIZE", help="of all replicas together [70%]")] = None,
    api_key: Annotated[Value, typer.Option(metavar="KEY", help="clients must send it [none]")] = None,
    drain_s: Annotated[Value, typer.Option(metavar="SECONDS", help="for unfinished requests at the end [5]")] = None,
    log_level: Annotated[Value, typer.Option(metavar="LEVEL", help="debug, info, warning, error [info]")] = None,
) -> None:
    """Serve a model from several daemons, on nodes of a local Ray.

    Requests with the same beginning go to the same replica. When one dies, its streams go on at another one: nothing is
    lost, and nothing comes twice.
    """
    from kelm.cli import cluster

    flags = {name: value for name, value in locals().items() if name not in ("model", "replicas", "cluster")}
    cluster.serve(flags, model, replicas)
