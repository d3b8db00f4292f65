"""Licences of the files of a Debian package, and whether they allow use and derived works."""

import fnmatch
import json
import re
from dataclasses import dataclass
from pathlib import Path

FREE = re.compile(
    r"CC0|CC-BY(-SA)?(-\d|$)|L?GPL|(GNU-)?G?FDL|Public.Domain|Expat|MIT|BSD|Apache|ISC", re.I
)
NOT_FREE = re.compile(r"(^|[-\s])(NC|ND)([-\s]|$)|non-?commercial|proprietary", re.I)


@dataclass(frozen=True)
class Rule:
    """One paragraph of a debian/copyright file: who has the copyright, and under which licence."""

    patterns: tuple[str, ...]
    licence: str
    author: str


def copyright_rules(folder: Path, package: str) -> list[Rule]:
    """The paragraphs about files of a machine-readable debian/copyright file, in its order."""
    text = (folder / "usr/share/doc" / package / "copyright").read_text(encoding="utf-8")
    rules = []
    for paragraph in re.split(r"\n\s*\n", text):
        # a field is its line and the indented lines below it
        pairs = re.findall(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", paragraph, re.M)
        fields = {key.lower(): value for key, value in pairs}
        if "files" in fields and "license" in fields:
            author = " ".join(fields.get("copyright", "").split()).removeprefix("none")
            licence = fields["license"].splitlines()[0].strip()
            rules.append(Rule(tuple(fields["files"].split()), licence, author))
    return rules


def rule_of(path: str, rules: list[Rule]) -> Rule | None:
    """The last rule that names a file, as the format says.

    The patterns are paths of the source package. A pattern fits an installed path if it fits the
    end of it, or if it is a plain path with the same file name.
    """

    def fits(pattern: str) -> bool:
        plain = not re.search(r"[*?]", pattern)
        return fnmatch.fnmatch(path, f"*{pattern}" if pattern == "*" else f"*/{pattern}") or (
            plain and Path(pattern).name == Path(path).name
        )

    return next((r for r in reversed(rules) if any(map(fits, r.patterns))), None)


def stated_beside(picture: Path) -> tuple[str, str]:
    """Licence and author in the file that KDE's packages put beside a picture, or two blanks."""
    desktop = picture.with_suffix(".desktop")
    if desktop.is_file():
        entries = dict(re.findall(r"PluginInfo-(License|Author)=(.*)", desktop.read_text("utf-8")))
        return entries.get("License", ""), entries.get("Author", "")
    meta = picture.parents[2] / "metadata.json"
    if meta.is_file():
        entries = json.loads(meta.read_text("utf-8"))["KPlugin"]
        authors = ", ".join(a.get("Name", "") for a in entries.get("Authors", []))
        return entries.get("License", ""), authors
    return "", ""


def is_free(licence: str) -> bool:
    """Whether a licence allows use and derived works: one part of "A or B", both of "A and B"."""
    if NOT_FREE.search(licence):
        return False
    parts = [re.split(r"\s+and\s+|,", p, flags=re.I) for p in re.split(r"\s+or\s+", licence)]
    return any(all(FREE.match(p.strip()) for p in alternative) for alternative in parts)


def refusal(picture: Path, inside: str, rules: list[Rule]) -> tuple[str, str, str]:
    """Why a picture's licence does not do (blank if it does), the licence, and the author."""
    rule = rule_of(inside, rules)
    if rule is None:
        return "debian/copyright does not name it", "", ""
    licence, author = stated_beside(picture)
    for text in filter(None, (rule.licence, licence)):
        if not is_free(text):
            return f"licence {text!r}", "", ""
    both = " and ".join(dict.fromkeys(filter(None, (rule.licence, licence))))
    return "", both, author or rule.author
