"""What listeners said: who is believed, and means with 95 % intervals."""

import itertools
import json
from collections import defaultdict
from pathlib import Path

from pscodec.listening.make import REFERENCE
from pscodec.metrics.summary import mean_ci
from pscodec.utils.errors import UserError

SCALES = {"mushra": (0, 100), "mos": (1, 5), "smos": (1, 5)}
# EnCodec, section 4.3: rates the reference below 90 in at least 20 % of the cases, or the low anchor above 80 in more
# than 50 %.
REFERENCE_BELOW, REFERENCE_SHARE = 90, 0.2
ANCHOR_ABOVE, ANCHOR_SHARE = 80, 0.5


def read_results(paths, key):
    """`{listener: {stimulus id: rating}}` of the files that the page saved, of the test with `key` (make.Key).

    A file that was saved twice counts once. Raises UserError, naming the file: not one of this test, ratings that are
    missing or not on its scale, two files of one listener that differ.
    """
    results, trials = {}, {frozenset(ids) for ids, _ in key.trials}
    for path in map(Path, paths):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            test, listener = found["test"], found["listener"]
            rated = [dict(trial["ratings"]) for trial in found["trials"]]
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path}: not the results of a listening test") from None
        if test != key.id:
            raise UserError(f"{path}: results of another test ({test}, not {key.id})")
        low, high = SCALES[key.kind]
        whole = [frozenset(ratings) for ratings in rated]
        if not rated or set(whole) - trials or len(set(whole)) < len(whole):
            raise UserError(f"{path}: trials that are not whole, come twice, or are not of this test")
        ratings = {id_: rating for trial in rated for id_, rating in trial.items()}
        if not all(type(r) in (int, float) and low <= r <= high for r in ratings.values()):
            raise UserError(f"{path}: ratings that are not numbers from {low} to {high}")
        if results.setdefault(listener, ratings) != ratings:
            raise UserError(f"{path}: another file has other ratings of {listener}")
    return results


def distrust(ratings, key):
    """Why the `ratings` of a listener do not count, in words, or None. Asked of MUSHRA alone."""
    if key.kind != "mushra":
        return None
    by_system = defaultdict(list)
    for id_, rating in ratings.items():
        by_system[key.stimuli[id_][1]].append(rating)
    low = sum(r < REFERENCE_BELOW for r in by_system[REFERENCE])
    if low >= REFERENCE_SHARE * len(by_system[REFERENCE]):
        return f"the hidden reference below {REFERENCE_BELOW} in {low} of {len(by_system[REFERENCE])}"
    for anchor in key.anchors[:1]:
        high = sum(r > ANCHOR_ABOVE for r in by_system[anchor])
        if high > ANCHOR_SHARE * len(by_system[anchor]):
            return f"the low anchor above {ANCHOR_ABOVE} in {high} of {len(by_system[anchor])}"
    return None


def summarise(results, key):
    """`systems`: name -> `{mean, ci95, n}` over ratings, as papers print it, and `ci95_listeners`, the half width of
    the interval of the mean of listeners' own means; `differences`: `A - B` -> the same of what the same listener said
    of the same utterance; `listeners`: how many.

    Ratings of one listener are not independent: where the two half widths differ much, believe the larger.
    """
    heard = {name: {} for name in _order(key)}
    for listener, ratings in results.items():
        for id_, rating in ratings.items():
            item, system = key.stimuli[id_]
            heard[system][listener, item] = rating
    differences = {}
    for a, b in itertools.combinations(key.systems, 2):
        both = [case for case in heard[a] if case in heard[b]]
        differences[f"{a} - {b}"] = _interval({case: heard[a][case] - heard[b][case] for case in both})
    return {
        "kind": key.kind,
        "listeners": len(results),
        "systems": {name: _interval(ratings) for name, ratings in heard.items()},
        "differences": differences,
    }


def _order(key):
    """Systems as they were named, before them the hidden reference where there is one, after them anchors."""
    there = {system for _, system in key.stimuli.values()}
    return [name for name in (REFERENCE, *key.systems, *key.anchors) if name in there]


def _interval(ratings):
    """Of `{(listener, item): rating}`."""
    of = defaultdict(list)
    for (listener, _), rating in ratings.items():
        of[listener].append(rating)
    means = [sum(each) / len(each) for each in of.values()]
    return mean_ci(list(ratings.values())) | {"ci95_listeners": mean_ci(means)["ci95"]}
