"""Templates, style sheet and scripts of both pages."""

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

LOADER = ChoiceLoader(
    [PackageLoader("spikesep.separation.pages", folder) for folder in ("templates", "static")]
)
ENVIRONMENT = Environment(
    loader=LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.globals["source"] = lambda name: Markup(source(name))


def source(name: str) -> str:
    """Return the text of a template or static file."""
    return LOADER.get_source(ENVIRONMENT, name)[0]


def render(name: str, **context: Any) -> str:
    """Render a template; all text in the context is escaped."""
    return ENVIRONMENT.get_template(name).render(context)
