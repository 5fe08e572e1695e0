"""A hook of mkdocs: the pages of every setting and every command, from the code that reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from fedmq.cli import main
from fedmq.config import ExperimentConfig

_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def text(words: str) -> str:
    """As it stands in a cell of a table, with the pages that it names as links."""
    words = re.sub(r"docs/([\w-]+)\.md", r"[\1](../\1.md)", " ".join(words.split()))
    return re.sub(r"(?<!\\)\|", r"\\|", words).replace("<", "&lt;")


def allowed(schema: dict[str, Any]) -> str:
    """What a JSON schema takes, in words."""
    if "anyOf" in schema:
        return " or ".join(allowed(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return f"list of {allowed(schema['items'])}"
    if schema["type"] == "object":
        return "object"
    limits = [f"{sign} {schema[name]}" for name, sign in _LIMITS.items() if name in schema]
    return " ".join([schema["type"], ", ".join(limits)]).strip()


def settings() -> Iterator[str]:
    """The page of `fedmq config schema`."""
    schema = ExperimentConfig.json_schema()
    yield "# Settings\n"
    yield (
        "Of a config file (JSON or TOML), of `--set SECTION.KEY=VALUE` and of `ExperimentConfig`. "
        "`fedmq config schema` prints the same as a JSON schema.\n"
    )
    sections = {name: one for name, one in schema["properties"].items() if "$ref" in one}
    yield from table("Top level", {name: one for name, one in schema["properties"].items() if name not in sections})
    for name, one in sections.items():
        section = schema["$defs"][one["$ref"].rpartition("/")[2]]
        yield from table(name, section["properties"], one["description"])


def table(name: str, properties: dict[str, dict[str, Any]], description: str = "") -> Iterator[str]:
    """One section of the settings."""
    yield f"## {name}\n\n{description[:1].upper()}{description[1:]}{'.' if description else ''}\n"
    yield "| setting | default | allowed | what |\n|---|---|---|---|"
    for key, one in properties.items():
        default = f"`{json.dumps(one['default'])}` {one.get('unit', '')}"
        yield f"| {' | '.join(map(text, [f'`{key}`', default, allowed(one), one['description']]))} |"
    yield ""


def commands() -> Iterator[str]:
    """The page of `fedmq COMMAND --help`."""
    yield "# Command line\n"
    yield "What `fedmq --help` and `fedmq COMMAND --help` print.\n"
    yield from command(main, click.Context(main, info_name="fedmq"))


def command(one: click.Command, context: click.Context) -> Iterator[str]:
    """One command, and those below it."""
    if context.parent:
        yield f"## {context.command_path}\n"
    usage = " ".join(one.collect_usage_pieces(context))
    yield f"```text\n{context.command_path} {usage}\n```\n\n{one.help}\n"
    records = [record for parameter in one.params if (record := parameter.get_help_record(context)) and record[1]]
    if records:
        yield "| option | what |\n|---|---|"
        yield from (f"| `{text(names)}` | {text(what)} |" for names, what in records)
        yield ""
    for name, below in sorted(one.commands.items()) if isinstance(one, click.Group) else []:
        if not below.hidden:
            yield from command(below, click.Context(below, info_name=name, parent=context))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add both pages."""
    for name, page in (("settings", settings), ("command-line", commands)):
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(page())))
    return files
