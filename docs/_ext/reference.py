"""Reference pages, written from the code before every build: what is registered, shipped or raised documents itself.

They lie in `docs/reference/`, where nothing is written by hand or committed.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pygments.lexers.special import TextLexer

from triune.algo import preset
from triune.algo.shown import KINDS, show
from triune.cli import COMMANDS, main
from triune.core import errors
from triune.core.describe import annotated, leaves, type_name
from triune.core.loading import list_recipes
from triune.core.recipe import Recipe
from triune.core.schedule import Progress
from triune.testing.cases import requests, statuses, texts, values
from triune.verify.env import EnvReward
from triune.verify.judge import Judge
from triune.verify.verifier import AnyVerifier, BatchVerifier, Case, GroupVerifier, verifiers

AnyClass = type[AnyVerifier[Any, Any]]


def verifiers_page() -> str:
    """Every registered verifier: what it measures, its parameters, its cases, what it logs."""
    overview = (
        [f"[`{name}`](#{name})", summary(cls), f"{cls.threshold:g}", "worker" if cls.slow else "in process"]
        for name, cls in registered().items()
    )
    return "\n\n".join(
        [
            "# All verifiers",
            "Written from the verifiers' own docstrings, parameters and cases when this site is built. The cases are run as "
            "tests. How verdicts become a reward is on the page [Verifiers](../verifiers.md).",
            table(["verifier", "what it measures", "correct from", "runs"], overview),
            *(verifier_section(name, cls) for name, cls in registered().items()),
            f"## env/NAME\n\n{prose(EnvReward)}\n\n{parameters(EnvReward.Params)}",
        ]
    )


def registered() -> dict[str, AnyClass]:
    return {name: verifiers[name] for name in verifiers}


def verifier_section(name: str, cls: AnyClass) -> str:
    low, high = cls.limits
    place = f"in a worker that is killed after {cls.deadline:g} s" if cls.slow else "in the calling process"
    place += f", in {cls.concurrency} threads" if cls.concurrency else ""
    facts = f"Version {cls.version}. The value lies in [{low:g}, {high:g}]; correct from {cls.threshold:g}. Runs {place}."
    if issubclass(cls, GroupVerifier):
        facts += " Sees the whole group at once."
    if issubclass(cls, BatchVerifier):
        facts += " Sees all groups of one source that are judged together."
    logged = sorted({metric for case in cls.cases for metric in measured(cls, case)})
    if logged:
        facts += f" Logs besides: {', '.join(f'`verifier/{metric}`' for metric in logged)}."
    cases = table(["answer", "truth", "parameters", "value", "correct"], map(case_row, cls.cases))
    return "\n\n".join([f"## {name}", prose(cls), facts, parameters(cls.Params), f"Cases:\n\n{cases}"])


def parameters(params: type[BaseModel]) -> str:
    """The table of a plug-in's options, followed by what its docstring says."""
    fields = params.model_fields
    if not fields:
        return "No parameters."
    rows = (
        [code(name), code(type_name(info.annotation)), default(info), info.description or ""]
        for name, info in fields.items()
    )
    own = "__doc__" in vars(params) and len(prose(params).splitlines()) > 1
    return table(["parameter", "type", "default", "meaning"], rows) + (f"\n{prose(params)}" if own else "")


def default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    return code(in_yaml(TypeAdapter(Any).dump_python(value, mode="json")))


def case_row(case: Case) -> list[str]:
    frame = {"frame": case.frame} if case.frame != "per_mille" else {}
    given: dict[str, Any] = {**case.params, **frame}
    if case.others:
        given["checks"] = [f"{check.name}: {check.verifier}" for check in case.others]
    if case.outcome:
        given["rollout"] = TypeAdapter(Any).dump_python(case.outcome, mode="json", exclude_defaults=True)
    said = " / ".join(
        ", ".join("none" if value is None else f"{value:.4g}" for value in group) for group in values(case)
    )
    odd = sorted({status for group in statuses(case) for status in group if status != "ok"})
    return [
        " / ".join("; ".join(code(shorten(text)) for text in group) for group in texts(case)),
        "" if case.truth is None else code(shorten(in_yaml(case.truth))),
        code(in_yaml(given)) if given else "",
        f"{said} ({', '.join(odd)})" if odd else said,
        {True: "yes", False: "no", None: ""}[case.correct],
    ]


def measured(cls: AnyClass, case: Case) -> set[str]:
    """The names of what a verifier logs beside its value, found by running one of its cases."""
    with Judge(workers=0) as judge:
        judged = judge.judge_many(requests(cls.name, cls, case), Progress(step=1, total_steps=1))
    return {metric for group in judged for verdict in group for metric in verdict.components[0].metrics}


def recipes_page() -> str:
    """Every recipe that ships, as written and resolved."""
    parts = []
    for name, path in list_recipes().items():
        recipe = Recipe.load(path)
        parts += [
            f"## {name}",
            about(path),
            table(["batch arithmetic", ""], recipe.arithmetic()),
            f"As it is written:\n\n{block('yaml', path.read_text(encoding='utf-8'))}",
            "<details><summary>Resolved, with what every key means</summary>\n\n"
            f"{block('yaml', annotated(recipe))}\n\n</details>",
        ]
    overview = ([f"[`{name}`](#{slug(name)})", about(path)] for name, path in list_recipes().items())
    return "\n\n".join(
        [
            "# All recipes",
            "Every recipe that ships, as it is written and with what it resolves to: `triune recipes` lists the same, "
            "`triune recipes show NAME` prints one. How recipes work is on the page [Recipes](../recipes.md).",
            table(["recipe", "what it is for"], overview),
            *parts,
        ]
    )


def presets_page() -> str:
    """Every preset of an update rule, as `triune recipes show` prints it."""
    shipped = [preset.load(name) for name in preset.names()]
    return "\n\n".join(
        [
            "# All presets",
            "Published update rules as data: `algo: {kind: policy_gradient, preset: NAME}`. What the parts mean is on the "
            "page [Objectives](../objectives.md).",
            table(["preset", "what it is"], ([f"[`{p.name}`](#{slug(p.name)})", p.title] for p in shipped)),
            *(f"## {p.name}\n\n{block('text', show(p))}" for p in shipped),
        ]
    )


def parts_page() -> str:
    """Every part of an algorithm, with its parameters."""
    sections = [
        f"## {name}\n\nA {registry.kind}, `algo.{key}`.\n\n{parameters(registry[name])}"
        for key, registry in KINDS.items()
        for name in registry
    ]
    return "\n\n".join(
        [
            "# All parts of an algorithm",
            "Written from the parts' own docstrings and parameters. How they work together is on the page "
            "[Objectives](../objectives.md).",
            *sections,
        ]
    )


def about(path: Path) -> str:
    """The comment that a recipe begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = lines[: next((n for n, line in enumerate(lines) if not line.startswith("#")), None)]
    return " ".join(line.removeprefix("#").strip() for line in comment)


def keys_page() -> str:
    """Every key of a recipe and of every plug-in."""
    rows = ([code(leaf.key), code(leaf.type), code(leaf.default), leaf.doc] for leaf in leaves(plugins=True))
    return "\n\n".join(
        [
            "# All keys of a recipe",
            "`triune train --help` prints the same. `policy(language).path` is the key `policy.path` where `policy.kind` is "
            "`language`; `[]` is any item of a list.",
            table(["key", "type", "default", "meaning"], rows),
        ]
    )


def commands_page() -> str:
    """The help of every command, as the command prints it."""
    parts = [
        "# The command line",
        "Exit codes: 0; 1 where a check found something; 2 for an error; 130 after Ctrl-C. What can be set as `a.b=c` is on the "
        "page [All keys of a recipe](keys.md).",
    ]
    for name in COMMANDS:
        parts.append(f"## triune {name}\n\n{block('text', help_of(name))}")
    return "\n\n".join(parts)


def help_of(command: str) -> str:
    plain = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "110"}
    before = dict(os.environ)
    os.environ.update(plain)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
            main([command, "--help"])
    finally:
        os.environ.clear()
        os.environ.update(before)
    return printed.getvalue().split("\nKeys of a recipe")[0]


def errors_page() -> str:
    """Every kind of error that a user is meant to read."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.TriuneError)
    ]
    rows = ([code(kind.__name__), code(kind.__mro__[1].__name__), prose(kind)] for kind in kinds)
    return "\n\n".join(
        [
            "# Kinds of errors",
            "What goes wrong is said in a sentence that names the place and what to do; the command line prints it without a "
            "traceback and ends with exit code 2. From Python, catch `triune.core.errors.TriuneError` or one of its kinds. "
            "Common messages are explained in the [FAQ](../faq.md).",
            table(["error", "is a", "means"], rows),
        ]
    )


# -- Markdown ------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells]) + "\n"


def code(text: str) -> str:
    """Text as inline code; what it holds of backticks and line ends stays readable."""
    shown = text.replace("\n", "⏎")
    if not shown.strip():
        return "(empty)"
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


def block(language: str, text: str) -> str:
    return f"````{language}\n{text.strip()}\n````"


def prose(item: Any) -> str:
    return inspect.getdoc(item) or ""


def summary(cls: AnyClass) -> str:
    return " ".join(prose(cls).split("\n\n")[0].split())


def shorten(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text)} characters)"


def in_yaml(value: Any) -> str:
    """A value as a recipe would have it, on one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True
    )
    return text.removesuffix("...\n").strip()


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w-]", "", heading.lower())


# -- the build -----------------------------------------------------------------------------------------------------

PAGES: Mapping[str, Callable[[], str]] = {
    "verifiers": verifiers_page,
    "recipes": recipes_page,
    "presets": presets_page,
    "parts": parts_page,
    "keys": keys_page,
    "commands": commands_page,
    "errors": errors_page,
}


def write(folder: Path) -> None:
    """Writes the pages that changed; one that did not is not built again."""
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        file, text = folder / f"{name}.md", page() + "\n"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    for language in ("csv", "jsonl"):
        app.add_lexer(language, TextLexer)
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "reference"))
    return {"parallel_read_safe": True}
