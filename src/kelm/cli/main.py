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
key_app = typer.Typer(help="Give tenants their API keys.", no_args_is_help=True)
app.add_typer(key_app, name="key")
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
Variant = Annotated[str, typer.Argument(metavar="MODEL", help="model@variant", autocompletion=_models)]
Json = Annotated[bool, typer.Option("--json", help="JSON, for scripts")]
Pid = Annotated[int, typer.Argument(metavar="PID", help="as `kelm ps` shows it")]
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
    dtype: Annotated[
        Value, typer.Option(metavar="TYPE", help="auto, float32, bfloat16, float16, int8, int4 [auto]")
    ] = None,
    executor: Annotated[Value, typer.Option(metavar="NAME", help="of decoders: auto, native, torch [auto]")] = None,
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
    all_: Annotated[bool, typer.Option("--all", "-a", help="jobs that have ended too")] = False,
    tenants: Annotated[bool, typer.Option("--tenants", help="the tenants and their shares instead")] = False,
    as_json: Json = False,
) -> None:
    """List the running requests and jobs, loaded models, or tenants.

    Models in memory with --models, tenants' shares with --tenants; the requests being answered and the jobs at work
    without.
    """
    from kelm.cli import running

    running.ps("models" if models else "tenants" if tenants else "processes", all_, as_json)


@app.command()
def cancel(pid: Pid) -> None:
    """End a process: a running answer, or a job."""
    from kelm.cli import running

    running.cancel(pid)


@app.command()
def why(pid: Pid, as_json: Json = False) -> None:
    """Say what a request does or waits for."""
    from kelm.cli import running

    running.why(pid, as_json)


@app.command(context_settings={"ignore_unknown_options": True})
def nice(
    pid: Pid, priority: Annotated[int, typer.Argument(metavar="N", help="lower is earlier; a request's own is 0")]
) -> None:
    """Change the priority of a request while it runs."""
    from kelm.cli import running

    running.nice(pid, priority)


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
    """Unload a model; its requests end.

    The variants that lie on it go with it.
    """
    from kelm.cli import running

    running.stop(model)


@app.command()
def versions(variant: Variant, as_json: Json = False) -> None:
    """List the versions of a variant.

    Each with its parent, what it adds, its evaluation, and a mark at the one that is served.
    """
    from kelm.cli import versions as commands

    commands.versions(variant, as_json)


@app.command()
def update(
    variant: Variant,
    delta: Annotated[
        Path, typer.Argument(metavar="DELTA", help="a delta file, a PEFT adapter, or a checkpoint", exists=True)
    ],
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="shown by kelm versions")] = "",
    parent: Annotated[
        int | None,
        typer.Option("--parent", metavar="N", min=0, help="lay it over this version; 0: the base"),
    ] = None,
    no_publish: Annotated[bool, typer.Option("--no-publish", help="keep serving the version before")] = False,
) -> None:
    """Give a variant a new version.

    A delta file is laid over the version that is served, an adapter's or a checkpoint's folder over the base. The
    variant begins with it when it is not there yet. A running daemon serves it from the next request on; requests that
    are running finish on the version they began with.
    """
    from kelm.cli import versions as commands

    commands.update(variant, delta, note, parent, publish=not no_publish)


@app.command()
def publish(version: Annotated[str, typer.Argument(metavar="MODEL", help="model@variant:N")]) -> None:
    """Serve this version of a variant."""
    from kelm.cli import versions as commands

    commands.publish(version)


@app.command()
def rollback(variant: Variant) -> None:
    """Serve the version of a variant that was served before."""
    from kelm.cli import versions as commands

    commands.rollback(variant)


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


@app.command()
def tune(
    base: Annotated[str, typer.Argument(metavar="BASE", help="the model to teach", autocompletion=_models)],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="a CSV or JSON Lines file", exists=True, dir_okay=False)],
    name: Annotated[str | None, typer.Option("--name", metavar="VARIANT", help="[the file's name]")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="until BASE@VARIANT is served")] = False,
    epochs: Annotated[int | None, typer.Option("--epochs", metavar="N", help="at most [the method's]")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", metavar="RATE", help="the peak [the method's]")
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", metavar="N", help="of the adapter [the method's]")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="of every random choice")] = 1,
) -> None:
    """Teach a model from your examples.

    A CSV with the columns text,label makes an encoder a classifier. JSON Lines with {"messages": [...]} teach a model
    that chats. The job runs in the daemon, which is started if none runs; the result is BASE@VARIANT.
    """
    from kelm.cli import tuning

    wanted = {"epochs": epochs, "learning_rate": learning_rate, "rank": rank, "seed": seed}
    tuning.tune(base, data, name, wanted, wait)


@app.command()
def compress(
    model: Model,
    bits: Annotated[int | None, typer.Option("--bits", metavar="8|4", help="round the weights to so many")] = None,
    group: Annotated[
        int | None, typer.Option("--group", metavar="32|64|128", help="weights that share a scale, of 4 bits [32]")
    ] = None,
    head: Annotated[bool, typer.Option("--head", help="round an untied output head too")] = False,
    drop_layers: Annotated[
        int, typer.Option("--drop-layers", metavar="N", help="remove the N layers that matter least")
    ] = 0,
    drop: Annotated[str | None, typer.Option("--drop", metavar="LAYERS", help="remove these, such as 3,5")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="of the result [MODEL:int4 ...]")] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", metavar="FILE", exists=True, dir_okay=False, help="measure perplexity on it [MODEL writes one]"
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="until the result is served, and print what it cost")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="PNG", help="with --wait: draw the figures")] = None,
    as_json: Json = False,
) -> None:
    """Make a smaller model: fewer bits, fewer layers.

    The result is a model of its own, in the compressed-tensors format that vLLM and transformers read too. A job in the
    daemon makes it, and measures size and perplexity before and after.
    """
    from kelm.cli import compressing
    from kelm.wire.jobs import Compress

    layers = compressing.read_layers(drop)
    made = name or compressing.default_name(model, bits, drop_layers or len(layers))
    spec = Compress(
        model=model, name=made, bits=bits, group=group, head=head,  # type: ignore[arg-type]  # checked next
        drop_layers=drop_layers, drop=layers, file=None if text is None else text.name,
    )  # fmt: skip
    compressing.compress(spec, compressing.Wanted(text, out, wait, as_json))


@app.command("eval")
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


@app.command()
def bench(
    model: Model,
    prompt_tokens: Annotated[
        int | None, typer.Option("--prompt-tokens", metavar="N", help="of the prefill [512, or half the context]")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", metavar="N", help="decoded by each stream [64, or a quarter]")
    ] = None,
    streams: Annotated[str, typer.Option("--streams", metavar="N,N...", help="decode with so many at once")] = (
        "1,2,4,8,16"
    ),
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="of each; medians are shown")] = 3,
    as_json: Json = False,
) -> None:
    """Measure how fast a model runs on this machine.

    Loading, prefill, decode with several streams at once, and which share of the memory's bandwidth that takes. The
    model runs in this process, with the settings that the daemon would have.
    """
    from kelm.cli import benching

    benching.bench(model, benching.Wanted(prompt_tokens, tokens, streams, repeats, as_json))


@app.command()
def support(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="with desk.yaml", exists=True, file_okay=False)],
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="listen here")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="listen here; 0 takes a free one")] = 8440,
    tune: Annotated[bool, typer.Option("--tune", help="make the intent classifier first, if it is missing")] = False,
) -> None:
    """Answer customers on a web page.

    FOLDER holds what the desk knows: articles, templates, examples of questions. Starts the daemon if none runs. What
    it can't answer goes to a person at /desk.
    """
    from kelm.cli import support as desk

    desk.support(folder, host, port, tune)


@app.command("logs")
def logs_(
    pid: Annotated[int | None, typer.Argument(metavar="PID", min=1, help="of a job, instead of the daemon's")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on as the log grows")] = False,
    lines: Annotated[int, typer.Option("-n", metavar="N", min=0, help="the last N lines")] = 100,
) -> None:
    """Print the log of the background daemon, or of a job.

    With -f, goes on until the job has ended; with Ctrl-C it goes on unwatched.
    """
    from kelm.cli import logs

    logs.show(follow, lines) if pid is None else logs.show_job(pid, follow, lines)


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


@key_app.command("create")
def key_create(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="who it is for")],
    weight: Annotated[
        int | None, typer.Option("--weight", metavar="W", help="of the tenant's share; for all of its keys [1]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an API key for a tenant. It is shown once.

    A running daemon knows it at once. From the first key on its doors need one.
    """
    from kelm.cli import keys

    keys.create(tenant, weight, as_json)


@key_app.command("list")
def key_list(as_json: Json = False) -> None:
    """List the keys: whose, since when, revoked or not."""
    from kelm.cli import keys

    keys.list_(as_json)


@key_app.command("revoke")
def key_revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="as `kelm key list` shows it")],
) -> None:
    """Make a key worthless, at once."""
    from kelm.cli import keys

    keys.revoke(key)


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
    dtype: Annotated[
        Value, typer.Option(metavar="TYPE", help="auto, float32, bfloat16, float16, int8, int4 [auto]")
    ] = None,
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
