"""A static page without outside resources: a few functions around text."""

from html import escape

CSS = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #1f2933; --soft: #616e7c; --line: #e4e7eb;
  --accent: #0072b2; --mark: #eef6fb; }
@media (prefers-color-scheme: dark) { :root { --back: #0f1216; --card: #171b21; --text: #e4e7eb; --soft: #9aa5b1;
  --line: #2b333d; --accent: #56b4e9; --mark: #1a2733; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif }
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 64px }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em }
h2 { font-size: 19px; margin: 40px 0 10px } h3 { font-size: 15px; margin: 22px 0 8px }
p { margin: 6px 0 12px; max-width: 86ch } .soft { color: var(--soft) } small, .small { font-size: 13px }
a { color: var(--accent) } code { font-size: .92em }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; margin: 12px 0 }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0 }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px }
.tile b { display: block; font-size: 23px; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.25 }
.tile span { color: var(--soft); font-size: 13px }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: 12px 0 }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums }
th, td { padding: 7px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { font-weight: 600; color: var(--soft); vertical-align: bottom }
th:first-child, td:first-child, td.name { text-align: left }
tr:last-child td { border-bottom: 0 } tr.main td { background: var(--mark); font-weight: 600 }
tr.paper td { color: var(--soft); font-style: italic }
td small { color: var(--soft); font-weight: 400; display: block; line-height: 1.2 }
tr.head td { text-align: left; font-weight: 600; padding-top: 16px }
figure { margin: 12px 0 } figure img { width: 100%; height: auto; display: block; border-radius: 6px }
figure.spectrogram img { width: auto; max-width: 100% }
.listen { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 10px 18px; margin-top: 8px }
.listen audio { width: 100%; height: 34px; display: block } .listen span { font-size: 13px; color: var(--soft) }
details summary { cursor: pointer; color: var(--accent); margin: 8px 0 }
"""
CONTROLS = """
[hidden] { display: none !important } .error { color: #d64545 }
button, a.main { font: inherit; color: inherit; background: var(--back); border: 1px solid var(--line);
  border-radius: 8px; padding: 8px 16px; cursor: pointer; text-decoration: none; display: inline-block }
button:hover:enabled { border-color: var(--accent) } button:disabled { opacity: .5; cursor: default }
button.main, a.main { background: var(--accent); border-color: var(--accent); color: var(--card); font-weight: 600 }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
"""


def page(title, body, style="", end=""):
    """A whole HTML page of `body` (HTML); `style`: more CSS (CONTROLS, for one with buttons), `end`: what follows the
    body, scripts."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f'<link rel="icon" href="data:,">\n'
        f"<style>{CSS}{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n{end}</body>\n</html>\n"
    )


def table(header, rows):
    """A table; `rows` are `(class, cells)`. Cells are HTML; a single cell spans the whole row."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in header) + "</tr>"]
    for kind, cells in rows:
        span = f' colspan="{len(header)}"' if len(cells) == 1 else ""
        lines.append(f'<tr class="{kind}">' + "".join(f"<td{span}>{cell}</td>" for cell in cells) + "</tr>")
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def tiles(items):
    """Large figures: `(value, what it is)` pairs of text."""
    cells = (f'<div class="tile"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in items)
    return '<div class="tiles">' + "".join(cells) + "</div>"


def picture(light, dark, text, kind=""):
    """A figure in two versions, for light and dark pages; `text` is its alternative text."""
    return (
        f'<figure class="{kind}"><picture><source srcset="{escape(dark)}" media="(prefers-color-scheme: dark)">'
        f'<img src="{escape(light)}" alt="{escape(text)}" loading="lazy"></picture></figure>'
    )


def players(items):
    """Audio players: `(path, caption)` pairs."""
    cells = (
        f'<div><span>{escape(caption)}</span><audio controls preload="none" src="{escape(path)}"></audio></div>'
        for path, caption in items
    )
    return '<div class="listen">' + "".join(cells) + "</div>"
