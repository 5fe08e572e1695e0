"""What a shell completes beside commands, options and files: the names of settings."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def setting_names(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """SECTION.KEY of each setting that begins so, with what it means; nothing once there is a value."""
    from fedmq.config import ExperimentConfig

    if "=" in incomplete:
        return []
    schema = ExperimentConfig.json_schema()
    found = {}
    for name, field in schema["properties"].items():
        if "$ref" not in field:
            found[name] = field["description"]
            continue
        section = schema["$defs"][field["$ref"].rpartition("/")[2]]["properties"]
        found |= {f"{name}.{key}": inner["description"] for key, inner in section.items()}
    return [CompletionItem(name, help=text) for name, text in found.items() if name.startswith(incomplete)]
