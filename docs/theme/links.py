"""Makes links from pages to files outside ``docs/`` work inside the site.

Pages are read in two places: on a forge, where ``../algorithms/grpo.py`` leads to the file, and on the site, where it
would lead nowhere. For the site, the source files that pages link to become pages themselves, and the links are
rewritten. README becomes the site's home page, and the changelog and the contributors' guide become pages too. A link
to a folder becomes plain text.
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
"""Markdown files outside ``docs/``, and the pages of the site made from them."""

_LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)#\s:]+)(#[^)\s]*)?\)")  # an exclamation mark: an image


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages made from files outside ``docs/``."""
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
    """Rewrites links that leave ``docs/``, and all links of a page made from a file outside it."""
    here = page.file.src_uri

    def changed(match: re.Match[str]) -> str:
        image, text, link, anchor = match[1], match[2], match[3], match[4] or ""
        path = _path(link, here)
        if not (ROOT / path).exists():
            return match[0]  # the build reports it
        uri = _uri(path)
        if files.get_file_from_path(uri) is None:
            return text
        return f"{image}[{text}]({posixpath.relpath(uri, posixpath.dirname(here))}{anchor})"

    return _LINK.sub(changed, markdown)


def _linked(markdown: str, here: str) -> Iterator[str]:
    """Paths, within the repository, of the files outside ``docs/`` that a page links to."""
    for match in _LINK.finditer(markdown):
        path = _path(match[3], here)
        if not path.startswith("docs/") and (ROOT / path).is_file():
            yield path


def _path(link: str, here: str) -> str:
    """Where a link on the page ``here`` leads, as a path within the repository."""
    folder = "" if here in PAGES.values() and not (ROOT / "docs" / here).exists() else "docs"
    return posixpath.normpath(posixpath.join(folder, posixpath.dirname(here), link))


def _uri(path: str) -> str:
    """The page of the site that shows the file."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path, f"source/{path}.md")
