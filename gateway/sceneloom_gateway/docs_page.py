"""`/docs`: the OpenAPI document as one page without scripts, which needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 52em; padding: 0 1em }
code { background: #8881; border-radius: 3px; padding: 0 .2em }
h2 { border-top: 1px solid #8886; margin-top: 1.5em; padding-top: .8em }
table { border-collapse: collapse } td { padding: .1em 1em .1em 0; vertical-align: top }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'"
"""The page's Content-Security-Policy: its own style sheet and nothing else."""


def docs_page(document: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI document's routes: fields, media types, answers."""
    info = document["info"]
    parts = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info.get('summary', ''))} The same for programs: ",
        '<a href="openapi.json">openapi.json</a>.</p>',
    ]
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            parts += [
                f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>",
                f"<p>{escape(route.get('description', ''))}</p>",
            ]
            parameters = [
                (one["name"], f"in the {one['in']}. {one.get('description', '')}")
                for one in route.get("parameters", [])
            ]
            parts += _table("Parameters", parameters)
            for media, content in route.get("requestBody", {}).get("content", {}).items():
                schema = content["schema"]
                rows = [
                    (name, _field_words(field, required=name in schema.get("required", [])))
                    for name, field in schema.get("properties", {}).items()
                ]
                parts += _table(f"Body: {media}", rows or [("", "the file itself")])
            answers = [
                (status, f"{one['description']} {', '.join(one.get('content', {}))}")
                for status, one in sorted(route["responses"].items())
            ]
            parts += _table("Answers", answers)
    return "\n".join(parts) + "\n"


def _field_words(field: Mapping[str, Any], *, required: bool) -> str:
    kind = "file" if field.get("format") == "binary" else str(field.get("type", ""))
    words = [kind + (", required" if required else "")]
    if "enum" in field:
        words.append(f"one of {', '.join(map(str, field['enum']))}")
    if "minimum" in field:
        words.append(f"{field['minimum']:g} to {field['maximum']:g}")
    return ". ".join([*words, field.get("description", "")]).strip(". ") + "."


def _table(title: str, rows: list[tuple[str, str]]) -> list[str]:
    if not rows:
        return []
    cells = [
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(words)}</td></tr>"
        for name, words in rows
    ]
    return [f"<h3>{escape(title)}</h3><table>", *cells, "</table>"]
