"""A chart as an SVG file of its own, for documents that show it as an image."""

import re

from markupsafe import Markup

from graceful_forgetting.report import svg
from graceful_forgetting.report.plots import TASK_COLOURS

_COLOURS = ("#6d4bc4", "#b77e00", "#c23b80", "#2f8591", "#8a5a33", "#4d7d2a")
# Readable on white and on dark pages alike: the drawing has a ground of its own.
_STYLE = """
svg { background: #fff; }
text { font: 11px system-ui, sans-serif; fill: #1b2330; }
text.tick, text.axis-label { fill: #566072; }
text.value { font-weight: 600; }
.axis { stroke: #566072; } line.grid { stroke: #e8ebf0; }
.curve { fill: none; stroke: var(--colour); stroke-width: 2.2; stroke-linejoin: round; }
.band { fill: var(--colour); opacity: 0.16; }
.heat { stroke: #fff; stroke-width: 2; }
.heat-better, .heat-worse { opacity: 0.55; }
.heat-better { fill: #1a7f4b; } .heat-worse { fill: #b3372b; } .heat-none { fill: #e8ebf0; }
"""
_PER_LINE, _LINE_HEIGHT = 3, 18.0


def standalone_svg(figure: svg.Figure) -> str:
    """The drawing with its own style sheet, its title above and its legend below."""
    found = re.match(r'<svg viewBox="0 0 ([\d.]+) ([\d.]+)"', figure.drawing)
    assert found is not None, "every drawing is made by svg.drawing"
    width, height = float(found[1]), float(found[2])
    top = 24.0
    rows = -(-len(figure.legend) // _PER_LINE)
    total = top + height + rows * _LINE_HEIGHT + (6 if rows else 0)
    style = _STYLE + "".join(f".task-{i} {{ --colour: {_COLOURS[i]}; }}\n" for i in range(TASK_COLOURS))
    parts = [
        Markup("<style>{}</style>").format(Markup(style + ".task-other { --colour: #8a93a1; }\n")),
        svg.element("text", figure.title, x=4, y=16, font_weight="bold"),
        svg.element("g", _inner(figure.drawing), transform=f"translate(0 {top:g})"),
    ]
    for index, (class_, label) in enumerate(figure.legend):
        x = 4 + (index % _PER_LINE) * (width - 8) / _PER_LINE
        y = top + height + (index // _PER_LINE) * _LINE_HEIGHT + 8
        parts.append(svg.line(x, y, x + 20, y, f"curve {class_.split()[-1]}"))
        parts.append(svg.text(x + 26, y + 4, svg.shortened(label, 20)))
    opening = Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img">').format(
        f"{width:g}", f"{total:g}"
    )
    return str(opening + Markup("\n").join(parts) + Markup("</svg>\n"))


def _inner(drawing: Markup) -> Markup:
    text = str(drawing)
    return Markup(text[text.index(">") + 1 : text.rindex("</svg>")])  # parts of a drawing that was escaped when made
