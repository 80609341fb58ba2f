"""The support desk, a complete application on Kelm's doors: `kelm support FOLDER` answers customers on a web page.

    question -> intent (POST /classify on a tuned classifier) -- confident, has a template --> template with its slots
                  | else
                passages (full text in SQLite + POST /v1/embeddings, ranks fused) -- confident --> answer with its
                  | else, or when a person is asked for,                     source (POST /v1/chat/completions, checked,
                  | or after two thumbs down                                  or the passage as it stands)
                a ticket that a person answers and closes at /desk

It talks HTTP to a daemon like any client: no torch, nothing of the kernel or the store. FOLDER is the customer's own:

    desk.yaml        name, language, models, thresholds, when to hand over     desk.py
    intents.csv      text,label: what the classifier is tuned on               examples.py
    templates.yaml   slots and answers: label -> text                          templates.py
    articles/*.md    what is known: Markdown that begins with a title          passages.py
    calibration.csv  text,expect: sets the thresholds; never tuned on          examples.py, calibration.py (optional)
    .desk/           made here: desk.db (SQLite), agents.key, lock             database.py

May import: limits, errors, clock, suggest, origin, text. Nobody but cli imports it.
"""
