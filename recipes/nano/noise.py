"""How people really type: lower case, lost punctuation, typos, lost words, English words in Chinese."""

from __future__ import annotations

from random import Random

_KEYS = ["qwertyuiop", "asdfghjkl", "zxcvbnm"]
_LOST = {"the", "a", "an", "my", "i", "do", "to", "is", "of", "please", "can", "me", "how", "in", "on"}
_MIXED = {
    "模型": ["model", "models"], "内存": ["memory", "RAM"], "显存": ["vram", "GPU memory"], "下载": ["download"],
    "日志": ["log", "logs"], "端口": ["port"], "后台": ["background"], "服务": ["server", "service"],
    "运行": ["run"], "删除": ["delete", "remove"], "版本": ["version"], "配置": ["config"], "卸载": ["unload"],
    "导入": ["import"], "命令": ["command"], "启动": ["start"], "关闭": ["close", "stop"], "查看": ["check", "show"],
    "聊天": ["chat"], "文件夹": ["folder"], "硬盘": ["disk"], "接口": ["API"], "请求": ["request"], "加载": ["load"],
    "释放": ["free", "release"], "实时": ["realtime", "live"], "训练": ["train"], "帮助": ["help"],
    "守护进程": ["daemon"],
}  # fmt: skip
_ALIKE = {"的": "得", "得": "的", "载": "在", "再": "在", "在": "再", "做": "作", "样": "洋", "么": "吗", "里": "理",
          "型": "形", "志": "致", "口": "扣", "启": "起", "像": "象", "那": "哪", "哪": "那", "它": "他"}  # fmt: skip

_SOUNDS = [a + b for a in "bdfgklmnprstvwz" for b in "aeiou"] + ["ing", "er", "ed", "s", "ly"]
_COMMON = (
    "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对"
    "小多然于心学么之都好看起发当没成只如事把还用第样道想作种开美总从无情己面最女但现前些所同日手又行意动"
    "方期它头经长儿回位分爱老因很给名法间斯知世什两次使身者被高已亲其进此话常与活正感"
)
"""A word that nobody knows, or a common character out of place: the rest of a question has to carry its meaning."""
_WIDE = str.maketrans(",?!;:~", "\uff0c\uff1f\uff01\uff1b\uff1a\uff5e")


def typo(word: str, rng: Random) -> str:
    """One slip of the finger in ``word``."""
    if len(word) < 4 or not word.isascii():
        return word
    at, kind = rng.randrange(len(word) - 1), rng.random()
    if kind < 0.35:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind < 0.65:
        return word[:at] + word[at + 1 :]
    if kind < 0.8:
        return word[:at] + word[at] + word[at:]
    row = next((row for row in _KEYS if word[at] in row), None)
    if row is None:
        return word
    near = row[max(0, min(len(row) - 1, row.index(word[at]) + rng.choice([-1, 1])))]
    return word[:at] + near + word[at + 1 :]


def english(text: str, rng: Random) -> str:
    words = text.split()
    for _ in range(rng.choices([0, 1, 2], [0.74, 0.18, 0.08])[0]):
        at = rng.randrange(len(words))
        words[at] = typo(words[at], rng)
    if rng.random() < 0.1 and len(words) > 4:
        kept = [word for word in words if word.lower() not in _LOST or rng.random() < 0.5]
        words = kept if len(kept) > 2 else words
    if rng.random() < 0.05 and len(words) > 6:
        del words[rng.randrange(len(words))]
    if rng.random() < 0.06 and len(words) > 4:
        words[rng.randrange(len(words))] = "".join(rng.choice(_SOUNDS) for _ in range(rng.randint(1, 3)))
    text = " ".join(words)
    if rng.random() < 0.35:
        text = text.lower()
    elif rng.random() < 0.5:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.03:
        text = text.upper()
    if rng.random() < 0.15:
        text = text.replace("'", "")
    return text


def chinese(text: str, rng: Random) -> str:
    if rng.random() < 0.15:
        for word, others in _MIXED.items():
            if word in text and rng.random() < 0.5:
                text = text.replace(word, rng.choice([" {} ", "{}"]).format(rng.choice(others)))
    if rng.random() < 0.06:
        at = rng.randrange(len(text))
        text = text[:at] + _ALIKE.get(text[at], text[at]) + text[at + 1 :]
    if rng.random() < 0.05 and len(text) > 6:
        at = rng.randrange(len(text))
        text = text[:at] + text[at + 1 :]
    if rng.random() < 0.06 and len(text) > 6:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(_COMMON) + text[at + 1 :]
    if rng.random() < 0.2:
        text = text.replace(",", " ")
    if rng.random() < 0.65:
        text = wide(text)
    return " ".join(text.split())


def wide(text: str) -> str:
    """Punctuation in the full width that Chinese is written with."""
    return text.translate(_WIDE)
