"""What nano says when no command is the answer."""

from __future__ import annotations

from noise import wide

DECLINE = {
    "en": "Sorry, I don't know that. I only answer questions about using Kelm.",
    "zh": wide("抱歉,这个我不知道。我只回答关于使用 Kelm 的问题。"),
}
"""The whole reply to what has nothing to do with Kelm."""

CHAT = {
    "hello.en": "Hello! Ask me how to do something with Kelm.",
    "hello.zh": wide("你好!想用 Kelm 做什么,尽管问我。"),
    "thanks.en": "You're welcome. Ask me anything else about Kelm.",
    "thanks.zh": wide("不客气。关于 Kelm 还有问题就问我。"),
    "bye.en": "Goodbye!",
    "bye.zh": wide("再见!"),
    "who.en": "I'm nano, the small model inside Kelm. I answer questions about using it.",
    "who.zh": wide("我是 nano,Kelm 自带的小模型,回答关于使用 Kelm 的问题。"),
    "what.en": "Kelm is a kernel for language models: one daemon that runs many models on your machine.",
    "what.zh": wide("Kelm 是语言模型的内核:一个守护进程,在你的机器上运行许多模型。"),
    "able.en": "I tell you which Kelm command does what you need. Just describe it.",
    "able.zh": wide("你说想做什么,我告诉你该用哪条 Kelm 命令。"),
}
