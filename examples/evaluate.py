"""How good is a model at a task? Perplexity of a text, accuracy and F1 of labels, BLEU and ROUGE of answers.

    python examples/evaluate.py [MODEL] [FOLDER]

MODEL is a decoder (default: the one that comes with Kelm); the task files and a picture for each go to FOLDER (default:
evaluation/). On the command line the same is `kelm eval MODEL TASK.jsonl --out report.png`.
"""

import json
import sys
from pathlib import Path

from rich.console import Console

from kelm import LLM
from kelm.evaluate import evaluate, read, report

TASKS = {
    "texts": [
        {"text": "Use `kelm ps` to see the requests that are running."},
        {"text": "用 `kelm list` 列出本机硬盘上的模型。"},
    ],
    "labels": [
        {"text": "Which language is this? How do I stop a model? It is", "label": "English"},
        {"text": "Which language is this? 怎么停止一个模型? It is", "label": "Chinese"},
        {"text": "Which language is this? Show me the log. It is", "label": "English"},
        {"text": "Which language is this? 显示日志。 It is", "label": "Chinese"},
    ],
    "answers": [
        {
            "messages": [{"role": "user", "content": "How do I see the models on my disk?"}],
            "reference": "Use `kelm list` to see the models on this machine's disk.",
        },
        {
            "messages": [{"role": "user", "content": "怎么关闭服务?"}],
            "reference": "用 `kelm shutdown` 关闭整个服务。",
        },
    ],
}


def main(model: str = "nano", folder: str = "evaluation") -> None:
    console, out = Console(), Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    llm = LLM(model)
    for name, rows in TASKS.items():
        path = out / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        result = evaluate(llm, read(path), max_tokens=64)
        for table in report.tables(result):
            console.print(table)
        report.write_png(result, path.with_suffix(".png"))
    llm.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
