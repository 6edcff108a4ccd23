"""Links from pages to files outside ``docs/``, followed inside the site.

Pages are read in two places: on a forge, as they are, where ``../algorithms/grpo.py`` leads to the file, and in the
site, where it would lead nowhere. For the site, source files that a page links to become pages, as do the changelog and
the contributors' guide, and the links to them are changed. A link to a folder becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Markdown files beside ``docs/``, and the pages of the site that hold what they say."""

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made of files outside ``docs/``."""
    for name, uri in PAGES.items():
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=(ROOT / name).read_text("utf-8")))
    sources = {path for file in files.documentation_pages() for path in _linked(file.content_string, file.src_uri)}
    for path in sorted(sources):
        if path.endswith(".py"):
            code = (ROOT / path).read_text("utf-8")
            files.append(File.generated(config, _uri(path), content=f"# `{path}`\n\n~~~~~~python\n{code}~~~~~~\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Changes the links of a page to files outside ``docs/``, and those of a page that was made of such a file."""
    here = page.file.src_uri

    def changed(match: re.Match[str]) -> str:
        text, link, anchor = match[1], match[2], match[3] or ""
        path = _path(link, here)
        if not (ROOT / path).exists():
            return match[0]  # the build says so
        uri = _uri(path)
        if files.get_file_from_path(uri) is None:
            return text
        return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(here))}{anchor})"

    return _LINK.sub(changed, markdown)


def _linked(markdown: str, here: str) -> Iterator[str]:
    """The files outside ``docs/`` that a page links to, by their paths in the repository."""
    for match in _LINK.finditer(markdown):
        path = _path(match[2], here)
        if not path.startswith("docs/") and (ROOT / path).is_file():
            yield path


def _path(link: str, here: str) -> str:
    """In the repository: where a link on the page ``here`` leads."""
    folder = "" if here in PAGES.values() and not (ROOT / "docs" / here).exists() else "docs"
    return posixpath.normpath(posixpath.join(folder, posixpath.dirname(here), link))


def _uri(path: str) -> str:
    """In the site: the page that shows the file."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path, f"source/{path}.md")
