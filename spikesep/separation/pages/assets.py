"""Templates, style sheet and scripts of both pages, as they lie in this package."""

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from spikesep.separation.scoring import results

ENVIRONMENT = Environment(
    loader=ChoiceLoader(
        [PackageLoader("spikesep.separation.pages", folder) for folder in ("templates", "static")]
    ),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters["decimal"] = results.decimal
ENVIRONMENT.globals["source"] = lambda name: Markup(source(name))


def source(name: str) -> str:
    """The text of a file of this package."""
    return ENVIRONMENT.loader.get_source(ENVIRONMENT, name)[0]


def render(name: str, **context: Any) -> str:
    """The template `name`, all text in `context` escaped."""
    return ENVIRONMENT.get_template(name).render(context)
