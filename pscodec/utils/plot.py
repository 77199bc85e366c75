"""Figures: spectrograms, curves, means with intervals; in colours that colour-blind readers can tell apart."""

import contextlib

import numpy as np

from pscodec.utils.files import atomic_path

THEMES = {  # the lines are Okabe & Ito's blues and orange
    "light": {"text": "#1f2933", "grid": "#e4e7eb", "edge": "#9aa5b1", "back": "#ffffff", "train": "#0072B2"},
    "dark": {"text": "#e4e7eb", "grid": "#323f4b", "edge": "#7b8794", "back": "#171b21", "train": "#56B4E9"},
}

SERIES = {  # of what is compared
    "light": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    "dark": ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#F0E442"),
}


@contextlib.contextmanager
def _figure(path, rows, columns, size, theme):
    """A figure of `rows` x `columns` axes (`[rows, columns]` array), written to `path` as PNG at the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = THEMES[theme]
    style = {
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": colours["edge"],
        "figure.facecolor": colours["back"],
        "axes.facecolor": colours["back"],
        "savefig.facecolor": colours["back"],
        "grid.color": colours["grid"],
        "legend.frameon": False,
        **{key: colours["text"] for key in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")},
    }
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        try:
            yield figure, axes
            with atomic_path(path) as partial:
                figure.savefig(partial, dpi=130)
        finally:
            pyplot.close(figure)


def spectrograms(path, levels, titles, sample_rate, hop_length, theme="light", span=80.0):
    """Spectrograms one above the other, on one colour scale.

    `levels`: arrays `[n_bins, F]` in dB, 0 Hz to Nyquist; `titles`: one each. The scale's top is the loudest point of
    the first, the bottom `span` dB below, so that what a codec loses looks lost.
    """
    top = float(levels[0].max())
    seconds = levels[0].shape[1] * hop_length / sample_rate
    width = min(12.0, max(6.0, 2.6 * seconds))
    with _figure(path, len(levels), 1, (width, 1.95 * len(levels) + 0.4), theme) as (figure, axes):
        for axis, level, title in zip(axes[:, 0], levels, titles, strict=True):
            image = axis.imshow(
                level - top,
                origin="lower",
                aspect="auto",
                extent=(0, level.shape[1] * hop_length / sample_rate, 0, sample_rate / 2000),
                cmap="magma",
                vmin=-span,
                vmax=0.0,
                interpolation="nearest",
            )
            axis.set_title(title)
            axis.set_ylabel("kHz")
            axis.label_outer()
        axes[-1, 0].set_xlabel("seconds")
        figure.colorbar(image, ax=axes[:, 0], label="dB below the loudest", shrink=0.7, pad=0.015, aspect=30)


def curves(path, series, columns=4, theme="light"):
    """Training curves, a panel a name.

    `series`: `{name: {"train": (steps, values), "valid": (steps, values)}}`, either may be missing. Many points are
    drawn faintly with their running mean on top.
    """
    columns = min(columns, len(series))
    rows = -(-len(series) // columns)
    with _figure(path, rows, columns, (2.9 * columns + 0.4, 2.05 * rows + 0.35), theme) as (figure, axes):
        handles = {}
        for axis, (name, sets) in zip(axes.flat, series.items(), strict=False):
            for which, colour in (("train", THEMES[theme]["train"]), ("valid", "#E69F00")):
                if which in sets:
                    handles[which] = _line(axis, *sets[which], colour, which)
            _limit(axis, [value for _, values in sets.values() for value in values])
            axis.set_title(name)
            axis.grid(True, linewidth=0.6)
            axis.margins(x=0.02)
        for axis in axes.flat[len(series) :]:
            axis.set_visible(False)
        for axis in axes.flat[max(0, len(series) - columns) : len(series)]:
            axis.set_xlabel("step")
        figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=2)


def _limit(axis, values):
    """Let a few wild values, as at the start, leave the panel rather than flatten the rest."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) < 20:
        return
    low, high = np.percentile(values, (1, 98))
    room = 0.25 * (high - low)
    if room > 0:
        axis.set_ylim(max(values.min(), low - room) - 0.05 * room, min(values.max(), high + room) + 0.05 * room)


def _line(axis, steps, values, colour, label):
    steps, values = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if len(values) < 60:
        return axis.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=2.6, label=label)[0]
    width = max(3, len(values) // 40)
    axis.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
    kernel = np.ones(width)
    weight = np.convolve(np.isfinite(values), kernel, "same")
    mean = np.convolve(np.nan_to_num(values), kernel, "same") / np.maximum(weight, 1)
    return axis.plot(steps, mean, color=colour, linewidth=1.6, label=label)[0]


def intervals(path, panels, theme="light", bars=False):
    """Means with their intervals, a panel a score, a line a category, a colour a series.

    `panels`: `{title: {category: {series: (mean, half width or None)}}}`; all panels have the same categories. `bars`:
    bars from zero, for what has a meaningful zero; else points.
    """
    categories = list(dict.fromkeys(c for panel in panels.values() for c in panel))
    series = list(dict.fromkeys(s for panel in panels.values() for line in panel.values() for s in line))
    height = 0.5 + len(categories) * (0.16 + 0.16 * len(series)) + 0.3 * (len(series) > 1)
    with _figure(path, 1, len(panels), (2.1 + 2.3 * len(panels), max(1.6, height)), theme) as (figure, axes):
        handles = {}
        for axis, (title, panel) in zip(axes[0], panels.items(), strict=True):
            for number, name in enumerate(series):
                there = [(i, *panel[c][name]) for i, c in enumerate(categories) if name in panel.get(c, {})]
                where = np.array([i for i, *_ in there]) + 0.8 * ((number + 0.5) / len(series) - 0.5)
                means = np.array([mean for _, mean, _ in there])
                halves = np.array([half or 0.0 for *_, half in there])
                colour = SERIES[theme][number % len(SERIES[theme])]
                if bars:
                    axis.barh(where, means, 0.8 / len(series), color=colour, alpha=0.75)
                handles[name] = axis.errorbar(
                    means,
                    where,
                    xerr=halves,
                    color=THEMES[theme]["text"] if bars else colour,
                    marker="none" if bars else "o",
                    markersize=4.5,
                    linestyle="none",
                    capsize=2.5,
                    linewidth=1.2,
                )
                if bars:
                    handles[name] = axis.containers[-2]
            axis.set_title(title)
            axis.grid(True, axis="x", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.set_yticks(range(len(categories)), categories)
            axis.invert_yaxis()
            axis.label_outer()
        if len(series) > 1:
            figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=min(4, len(series)))


def heat_map(path, values, x, y, labels, theme="light"):
    """`values` `[rows, columns]` as colours, and in figures; `x`, `y`: what columns and rows are; `labels`: of x, y and
    the values."""
    with _figure(path, 1, 1, (1.2 + 0.75 * len(x), 1.2 + 0.5 * len(y)), theme) as (figure, axes):
        axis = axes[0, 0]
        image = axis.imshow(values, cmap="viridis", aspect="auto", origin="lower")
        axis.set_xticks(range(len(x)), x)
        axis.set_yticks(range(len(y)), y)
        axis.set_xlabel(labels[0])
        axis.set_ylabel(labels[1])
        middle = (values.min() + values.max()) / 2
        for (row, column), value in np.ndenumerate(values):
            colour = "black" if value > middle else "white"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
        figure.colorbar(image, ax=axis, label=labels[2])
