"""MkDocs hooks: add the repository's pages outside docs/ to the site, and fix links between them.

Links in Markdown are relative to the file, as GitHub resolves them. In the site, docs/ is the root
and the other pages keep their paths, so links that cross the border of docs/ are rewritten. A link
to a file that is not part of the site, such as a source file, becomes plain text.
"""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PATTERNS = (
    "README.md",
    "CONTRIBUTING.md",
    "benchmarks/*.md",
    "benchmarks/results/**/*.png",
    "egs/*/*.md",
    "recipes/*/*.md",
    "recipes/*/results/*.png",
    "spikesep/separation/pretrained/*/*/README.md",
)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def site_path(path: str) -> str:
    """Path of a repository file within the site's sources."""
    return "overview.md" if path == "README.md" else path.removeprefix("docs/")


def on_files(files, config):
    """Add the pages and figures that lie outside docs/."""
    for pattern in PATTERNS:
        for path in sorted(ROOT.glob(pattern)):
            uri = site_path(path.relative_to(ROOT).as_posix())
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite the links of a page from paths in the repository to paths in the site."""
    source = Path(page.file.abs_src_path).resolve()

    def rewrite(match: re.Match) -> str:
        image, text, link, anchor = match.groups(default="")
        target = (source.parent / link).resolve()
        if "://" in link or not target.is_relative_to(ROOT):
            return match[0]
        uri = site_path(target.relative_to(ROOT).as_posix())
        if files.get_file_from_path(uri) is None:
            return text if target.exists() else match[0]
        relative = os.path.relpath(uri, Path(page.file.src_uri).parent)
        return f"{image}[{text}]({relative}{anchor})"

    return LINK.sub(rewrite, markdown)
