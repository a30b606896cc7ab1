"""Line plots as SVG text, for reports that are one file and need no library."""
import html
import math
import re

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 64, 170, 28, 44


def number(value, step=None):
    """A tick's value; of a linear axis with as many digits as its step has."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.4g} M"
    if step is not None and step < 1:
        return f"{value:.{-math.floor(math.log10(step) + 1e-9)}f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def linear_ticks(low, high):
    step = 10 ** math.floor(math.log10(max(high - low, 1e-12)))
    step = next(step * factor for factor in (0.1, 0.2, 0.5, 1, 2) if (high - low) / (step * factor) <= 7)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low, high, base):
    first, last = math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9)
    every = max(1, (last - first) // 6)
    ticks = [base**i for i in range(first, last + 1, every)]
    if base == 10 and last - first < 2:  # fewer than two whole decades
        ticks = [tick for i in range(first - 1, last + 1) for tick in (10**i, 2 * 10**i, 5 * 10**i) if low * 0.999 <= tick <= high * 1.001]
    return ticks if len(ticks) > 1 else [low, high]


class Axis:
    """From values to a stretch of the picture."""
    def __init__(self, values, begin, end, log):
        self.log, self.begin, self.end = log, begin, end
        self.low, self.high = min(values), max(values)
        if self.low == self.high:
            self.low, self.high = self.low * 0.9 - (not log), self.high * 1.1 + (not log)
        if not log:
            margin = 0.04 * (self.high - self.low)
            self.low, self.high = self.low - margin, self.high + margin

    def at(self, value):
        scale = math.log if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.begin + share * (self.end - self.begin)

    def ticks(self):
        return log_ticks(self.low, self.high, self.log) if self.log else linear_ticks(self.low, self.high)


def picture_size(names):
    """Width and height that the legend has room in, beside axes that do not depend on it."""
    letters, row = 6.4, 16  # of 11 pixels
    return (max(WIDTH, math.ceil(WIDTH - RIGHT + 36 + letters * max(len(name) for name in names))),
            max(HEIGHT, TOP + 8 + row * len(names)))


def line_plot(lines, title, x_label, y_label, log_x=0, log_y=0, bands=None):
    """lines: {name: [(x, y), ...]}. log_x, log_y: the base of a logarithmic axis, 0 for a linear one. bands: {name: [(x, low, high), ...]},
    shaded behind the line of the name."""
    lines, bands = {name: sorted(points) for name, points in lines.items() if points}, bands or {}
    if not lines:
        return "<p>nothing to plot yet</p>"
    x = Axis([p[0] for points in lines.values() for p in points], LEFT, WIDTH - RIGHT, log_x)
    ends = [end for name in lines for _, *both in bands.get(name, ()) for end in both]
    y = Axis([p[1] for points in lines.values() for p in points] + ends, HEIGHT - BOTTOM, TOP, log_y)
    width, height = picture_size(lines)
    text = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" '
            f'font-size="11" role="img"><title>{html.escape(title)}</title>',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<text x="{LEFT}" y="16" font-size="13" font-weight="bold">{html.escape(title)}</text>']
    x_ticks, y_ticks = x.ticks(), y.ticks()
    x_step, y_step = (None if axis.log or len(ticks) < 2 else ticks[1] - ticks[0] for axis, ticks in ((x, x_ticks), (y, y_ticks)))
    for tick in x_ticks:
        text.append(f'<path d="M{x.at(tick):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>'
                    f'<text x="{x.at(tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{number(tick, x_step)}</text>')
    for tick in y_ticks:
        text.append(f'<path d="M{LEFT} {y.at(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                    f'<text x="{LEFT - 6}" y="{y.at(tick) + 4:.1f}" text-anchor="end">{number(tick, y_step)}</text>')
    text.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>'
                f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>')
    for index, (name, points) in enumerate(lines.items()):
        colour, dashes = COLOURS[index % len(COLOURS)], "" if index < len(COLOURS) else ' stroke-dasharray="5 3"'
        band = sorted(bands.get(name, ()))
        if band:
            outline = [(px, low) for px, low, _ in band] + [(px, high) for px, _, high in reversed(band)]
            text.append(f'<polygon points="{" ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for px, py in outline)}" fill="{colour}" opacity="0.25"/>')
        path = " ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for px, py in points)
        text.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}/>')
        text += [f'<circle cx="{x.at(px):.1f}" cy="{y.at(py):.1f}" r="2.4" fill="{colour}"/>' for px, py in points]
        row = TOP + 8 + 16 * index
        text.append(f'<path d="M{WIDTH - RIGHT + 12} {row}h18" stroke="{colour}" stroke-width="2"{dashes}/>'
                    f'<text x="{WIDTH - RIGHT + 36}" y="{row + 4}">{html.escape(name)}</text>')
    return "\n".join([*text, "</svg>"])


def side_by_side(plots):
    """One picture of plots that line_plot made."""
    placed, width, height = [], 0, 0
    for plot in plots:
        placed.append(plot.replace("<svg ", f'<svg x="{width}" ', 1))
        its_width, its_height = map(int, re.match(r'<svg viewBox="0 0 (\d+) (\d+)"', plot).groups())
        width, height = width + its_width, max(height, its_height)
    return (f'<svg viewBox="0 0 {width} {height}" width="{width}" xmlns="http://www.w3.org/2000/svg">\n'
            + "\n".join(placed) + "\n</svg>\n")
