"""MkDocs hook: the page of commands is generated from the command line itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mkdocs.structure.files import File
from typer.cli import get_docs_for_click
from typer.main import get_command

from cli import app

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add ``commands.md``."""
    command = get_command(app)
    context = command.context_class(command, info_name="teachonce")
    text = get_docs_for_click(obj=command, ctx=context, name="teachonce", title="Commands")
    files.append(File.generated(config, "commands.md", content=text))
    return files
