"""Which utterance goes into which split: by hash, so that neither file order nor other files matter."""

import hashlib

from pscodec.utils.errors import UserError


def hash_order(utterances, seed):
    """A list of utterances in an order of the seed and their ids only, speakers taking turns."""
    rank = {u.utt: hashlib.sha256(f"{seed}/{u.utt}".encode()).hexdigest() for u in utterances}
    turns, seen = [], {}
    for u in sorted(utterances, key=lambda u: rank[u.utt]):
        seen[u.spk] = seen.get(u.spk, 0) + 1
        turns.append((seen[u.spk], rank[u.utt], u))
    return [u for _, _, u in sorted(turns, key=lambda turn: turn[:2])]


def by_utterance(utterances, seed, n_dev, n_test):
    """`{"train", "dev", "test"}` of the same speakers: `n_test` utterances in test, `n_dev` in dev, others in train."""
    order = hash_order(utterances, seed)
    if len(order) <= n_dev + n_test:
        raise UserError(f"{len(order)} usable utterances are too few; {n_dev} go to dev, {n_test} to test")
    return {"test": order[:n_test], "dev": order[n_test : n_test + n_dev], "train": order[n_test + n_dev :]}


def by_text(utterances, seed, n_dev, n_test):
    """`{"train", "dev", "test"}` of the same speakers and no text in two of them: `n_test` texts in test, `n_dev` in
    dev, one recording each; all recordings of the other texts in train."""
    of_text = {}
    for u in hash_order(utterances, seed):
        of_text.setdefault(" ".join(u.text.casefold().split()), []).append(u)
    groups = list(of_text.values())
    if len(groups) <= n_dev + n_test:
        raise UserError(f"{len(groups)} different texts are too few; {n_dev} go to dev, {n_test} to test")
    held = [group[0] for group in groups[: n_test + n_dev]]
    train = [u for group in groups[n_test + n_dev :] for u in group]
    return {"test": held[:n_test], "dev": held[n_test:], "train": train}


def by_speaker(utterances, seed, n_test=None, share=0.05):
    """`{"train", "dev", "test"}` with no speaker in two of them: `n_test` of the speakers in test (None: as many as in
    dev), `share` of them in dev, at least one each."""
    order = sorted({u.spk for u in utterances}, key=lambda s: hashlib.sha256(f"{seed}/{s}".encode()).hexdigest())
    n_dev = max(1, round(share * len(order)))
    n_test = n_dev if n_test is None else n_test
    if len(order) <= n_dev + n_test:
        raise UserError(f"{len(order)} speakers are too few; {n_dev} go to dev, {n_test} to test")
    place = {spk: "test" if i < n_test else "dev" for i, spk in enumerate(order[: n_test + n_dev])}
    splits = {"train": [], "dev": [], "test": []}
    for u in utterances:
        splits[place.get(u.spk, "train")].append(u)
    return splits


def cap(utterances, seed, most):
    """At most `most` utterances (0: all), chosen by hash with speakers taking turns."""
    return hash_order(utterances, seed)[:most] if most else list(utterances)
