"""What the pages show: blocks of code, and the commands in them. Tests run this file for its functions."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]}
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
_ENDS = {"|", ";", "&&", "||", "&", ">", ">>", "<", "do", "done", "fi", "then"}


class Block(NamedTuple):
    language: str
    code: str


def blocks_of(page: Path) -> list[Block]:
    """Give the blocks of code of a page, in order; of a console what is typed, without prompts and what is printed."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, _typed(code) if language == "console" else code) for language, code in found]


def _typed(text: str) -> str:
    lines, goes_on = [], False
    for line in text.splitlines():
        if goes_on or line.startswith(("$ ", "> ")):
            lines.append(line if goes_on else line[2:])
        goes_on = bool(lines) and lines[-1].endswith("\\")
    return "\n".join(lines)


def commands_of(code: str) -> list[list[str]]:
    """Give the commands of a shell's code as words, with loops over plain words unrolled."""
    commands: list[list[str]] = []
    loops: list[tuple[str, list[str], int]] = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["for"] and "$" not in line:
            stop = [word.rstrip(";") for word in words].index("do") if "do" in words else len(words)
            loops.append((words[1], [word.rstrip(";") for word in words[3:stop]], len(commands)))
        elif words[:1] == ["done"] and loops:
            name, values, first = loops.pop()
            body, commands = commands[first:], commands[:first]
            commands += [[word.replace(f"${name}", value) for word in each] for value in values for each in body]
        elif words:
            commands.append(words)
    return commands


def selfcell_arguments(words: list[str]) -> list[str] | None:
    """Give what a command hands to selfcell, whatever starts it (torchrun, srun, variables); None if it is another."""
    if "selfcell" not in words:
        return None
    rest = words[words.index("selfcell") + 1 :]
    stop = next((place for place, word in enumerate(rest) if word in _ENDS), len(rest))
    # In scripts a variable of SLURM is a number, and one of the script's own an option that may be empty.
    named = [re.sub(r"\$[A-Z_]+", "1", word) for word in rest[:stop]]
    return [word for word in named if not word.startswith("$")]
