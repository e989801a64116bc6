"""What every page of raysel is rendered with: templates, filters, colours, the one script and what it may do."""

import base64
import hashlib
import shlex
from typing import Any

import jinja2
from markupsafe import Markup

from raysel import __version__
from raysel.report import formats
from raysel.report.palette import DARK, LIGHT, css_variables


def environment(*rooms: str) -> jinja2.Environment:
    """Templates of this room and of `rooms`, packages with templates of their own; a page extends `base.html.jinja`.

    Every text is escaped, and its hidden characters are shown. The content security policy lets the page's own script
    run, by its SHA-256, and nothing else.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(room, "") for room in ("raysel.report", *rooms)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "integer": formats.integer,
        "decimal": formats.decimal,
        "percent": formats.percent,
        "probability": formats.probability,
        "scientific": formats.scientific,
        "duration": formats.duration,
        "size": formats.size,
        "language": formats.language_name,
        "metric": formats.metric_name,
        "shorten": formats.shorten,
        "both_ends": formats.both_ends,
        "counted": formats.counted,
        "shell": shlex.quote,
    }
    script = environment.get_template("sort.js.jinja").render()
    environment.globals |= {
        "version": __version__,
        "light": css_variables(LIGHT),
        "dark": css_variables(DARK),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "missing": formats.MISSING,
    }
    return environment


def _shown(value: Any) -> Any:
    """The last hand on every value that a template writes. Markup was made of such values, or is a figure."""
    return formats.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
