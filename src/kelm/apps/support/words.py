"""Everything that the desk itself says, in English and Chinese: on its pages, and in the conversation."""

from __future__ import annotations

from collections.abc import Mapping

from kelm.apps.support.texts import Language

WORDS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "handover_asked_for": "I have asked a person to take over. Leave this page open: the answer appears here.",
        "handover_nothing_found": (
            "I don't know that for sure, so I have passed your question on to a person. The answer appears here."
        ),
        "handover_thumbs_down": (
            "My answers did not help you, sorry. A person has your questions now, and the answer appears here."
        ),
        "handover_no_daemon": (
            "The assistant can't be reached at the moment. Your question has gone to a person, and the answer appears "
            "here."
        ),
        "handover_no_answer": (
            "Something went wrong while I looked for an answer. Your question has gone to a person, and the answer "
            "appears here."
        ),
        "title": "Help",
        "desk_title": "Support desk",
        "conversation": "Conversation",
        "welcome": "Hello! Ask about an order, a return, delivery or anything else.",
        "placeholder": "Write your question",
        "send": "Send",
        "person": "Ask a person",
        "new": "New conversation",
        "hide": "Hide",
        "you": "You",
        "assistant": "Assistant",
        "a_person": "Person",
        "thinking": "Looking for an answer…",
        "helpful": "This helped",
        "unhelpful": "This did not help",
        "how": "How this was answered",
        "how_short": "How?",
        "how_empty": "Choose an answer to see how it was made.",
        "route": "Way",
        "route_template": "Written answer for this kind of question",
        "route_ask": "One detail was missing",
        "route_passages": "From our articles",
        "route_handover": "Handed over to a person",
        "route_person": "A person",
        "intent": "Understood as",
        "confidence": "Confidence",
        "needed": "needed",
        "details": "Details",
        "articles": "Best article",
        "nearest": "Nearest articles",
        "sources": "Sources",
        "source": "Source:",
        "written_by": "Wording",
        "written_by_model": "by a model, each sentence checked against the sources",
        "written_by_passage": "quoted word for word",
        "left_out": "Sentences left out, without support",
        "unreadable": "The classifier does not know this script; full text alone was searched.",
        "why": "Reason",
        "why_asked_for": "a person was asked for",
        "why_nothing_found": "no article answers it surely enough",
        "why_thumbs_down": "two answers did not help",
        "why_no_daemon": "the assistant can't be reached",
        "why_no_answer": "the assistant failed at this question",
        "meaning": "Meaning",
        "wording": "Words",
        "away": "The assistant can't be reached. Questions go to a person.",
        "offline": "No connection. Trying again…",
        "too_long": "At most {most} characters.",
        "failed": "That did not work",
        "waiting": "A person has your question",
        "answered": "A person has answered",
        "closed_by_person": "This question was closed.",
        "back": "Back to the questions",
        "tickets": "Tickets",
        "open": "Open",
        "closed": "Closed",
        "no_tickets": "Nothing is waiting.",
        "choose_ticket": "Choose a ticket.",
        "reply": "Reply",
        "reply_placeholder": "Your answer to the customer",
        "close": "Close ticket",
        "key": "Key",
        "key_hint": "The key is in .desk/agents.key in the desk's folder; `kelm support` prints a link with it.",
        "enter": "Enter",
        "guess": "What the assistant made of it",
        "question": "Question",
        "since": "since",
        "customer": "Customer",
        "speaks_en": "English page",
        "speaks_zh": "Chinese page",
        "state_open": "waiting",
        "state_answered": "answered",
        "state_closed": "closed",
    },
    "zh": {
        "handover_asked_for": "已为您转接人工客服。请不要关闭本页，回复会显示在这里。",
        "handover_nothing_found": "这个问题我没有把握回答，已转交人工客服。回复会显示在这里。",
        "handover_thumbs_down": "很抱歉没能帮到您。您的问题已转交人工客服，回复会显示在这里。",
        "handover_no_daemon": "智能助手暂时无法连接。您的问题已转交人工客服，回复会显示在这里。",
        "handover_no_answer": "查找答案时出现问题。您的问题已转交人工客服，回复会显示在这里。",
        "title": "客户服务",
        "desk_title": "客服工作台",
        "conversation": "对话",
        "welcome": "您好！订单、退货、配送或者其他问题，都可以在这里提问。",
        "placeholder": "请输入您的问题",
        "send": "发送",
        "person": "转人工",
        "new": "新对话",
        "hide": "收起",
        "you": "您",
        "assistant": "助手",
        "a_person": "人工客服",
        "thinking": "正在查找答案…",
        "helpful": "有帮助",
        "unhelpful": "没有帮助",
        "how": "回答的依据",
        "how_short": "依据",
        "how_empty": "选择一条回答，查看它的依据。",
        "route": "方式",
        "route_template": "此类问题的标准答复",
        "route_ask": "还缺少一项信息",
        "route_passages": "来自帮助文章",
        "route_handover": "已转人工",
        "route_person": "人工客服",
        "intent": "理解为",
        "confidence": "置信度",
        "needed": "要求",
        "details": "信息",
        "articles": "最佳文章",
        "nearest": "最接近的文章",
        "sources": "来源",
        "source": "来源：",
        "written_by": "措辞",
        "written_by_model": "由模型撰写，每句话都与来源核对过",
        "written_by_passage": "逐字引用",
        "left_out": "因缺少依据而省略的句子",
        "unreadable": "分类器不认识这种文字，只进行了全文检索。",
        "why": "原因",
        "why_asked_for": "用户要求人工客服",
        "why_nothing_found": "没有文章能可靠地回答",
        "why_thumbs_down": "两次回答没有帮助",
        "why_no_daemon": "智能助手无法连接",
        "why_no_answer": "智能助手未能处理这个问题",
        "meaning": "语义",
        "wording": "词语",
        "away": "智能助手无法连接，问题会转交人工客服。",
        "offline": "连接中断，正在重试…",
        "too_long": "最多{most}个字符。",
        "failed": "操作没有成功",
        "waiting": "人工客服已收到您的问题",
        "answered": "人工客服已回复",
        "closed_by_person": "这个问题已关闭。",
        "back": "返回提问",
        "tickets": "工单",
        "open": "待处理",
        "closed": "已关闭",
        "no_tickets": "没有待处理的工单。",
        "choose_ticket": "请选择一个工单。",
        "reply": "回复",
        "reply_placeholder": "给客户的回复",
        "close": "关闭工单",
        "key": "密钥",
        "key_hint": "密钥保存在工作台文件夹的.desk/agents.key里；kelm support会打印带密钥的链接。",
        "enter": "进入",
        "guess": "助手的判断",
        "question": "问题",
        "since": "自",
        "customer": "客户",
        "speaks_en": "英文页面",
        "speaks_zh": "中文页面",
        "state_open": "等待中",
        "state_answered": "已回复",
        "state_closed": "已关闭",
    },
}


def says(language: Language, key: str) -> str:
    return WORDS[language][key]


def preferred(accept_language: str, default: Language) -> Language:
    """The first of a browser's languages that the pages speak (RFC 9110, section 12.5.4); q-values order them."""
    wanted: list[tuple[float, int, Language]] = []
    for place, part in enumerate(accept_language[:200].split(",")):
        name, _, rest = part.strip().partition(";")
        base = name.strip().partition("-")[0].lower()
        quality = _quality(rest)
        if quality > 0 and (base == "en" or base == "zh"):
            wanted.append((-quality, place, "zh" if base == "zh" else "en"))
    return min(wanted)[2] if wanted else default


def _quality(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0
