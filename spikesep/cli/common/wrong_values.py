"""What a value of a wrong type should have been, in the words of a user."""

import re

WORDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false",
    "list": "a list such as [1, 2]", "dict": "settings such as {name: value}",
}  # fmt: skip
"""What to give for a Python type; others, such as None, are not mentioned."""
EXPECTED = re.compile(r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])")


def explain(message: str) -> str:
    """Return jsonargparse's message about a wrong value as one plain clause, others unchanged.

    `Parser key "voices": ... Expected a <class 'int'> ... Given value: one` becomes `--voices one:
    give all, auto or a whole number`.
    """
    key = re.match(r'Parser key "([\w.]+)":', message)
    if not key:
        return message
    name = key[1] if "." in key[1] else f"--{key[1].replace('_', '-')}"
    if missing := re.search(r"File does not exist: '(.*)'", message):
        return f"{name} {missing[1]}: no such file"
    if section := re.search(r"Unable to load config '(.*?)'", message, re.DOTALL):
        return f"{name} {section[1]}: is a section; give its settings, --{key[1]}.NAME VALUE"
    value = re.search(r"(?:Got|Given) value: (.*)", message, re.DOTALL)
    wanted = [
        word
        for kind, choices in EXPECTED.findall(message)
        for word in (choices.replace("'", "").split(", ") if choices else [WORDS.get(kind, "")])
        if word
    ]
    if not (value and wanted):
        return message
    *first, last = dict.fromkeys(wanted)
    return f"{name} {value[1]}: give {', '.join(first)}{' or ' if first else ''}{last}"
