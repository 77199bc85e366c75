"""Progress with an ETA for anything that takes more than a few seconds."""

import sys

from tqdm import tqdm


def progress(items, desc, total=None, **kwargs):
    """Iterate over `items` showing `desc`, the count and the time left.

    On a terminal the bar moves; in a log file it prints a line at most every 10 seconds.
    """
    live = sys.stderr.isatty()
    return tqdm(items, desc=desc, total=total, mininterval=0.5 if live else 10.0, dynamic_ncols=live, **kwargs)
