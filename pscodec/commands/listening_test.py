"""a page on which people rate recordings: MUSHRA, MOS or SMOS"""

DETAILS = """
  pscodec listening-test ours=exp/a/decode/test/wav opus=coded/opus --reference data/test --out test
  pscodec listening-test A B --reference REF --kind smos --number 30 --out test
  pscodec listening-test A=exp/A/decode/test B=exp/B/decode/test --reference exp/A/decode/test/prompts.scp \\
      --kind smos --seconds 0 --out test                   # speech from text, beside the prompts of its voices
  pscodec listening-results test results/*.json

Each system is a folder of recordings (or a Kaldi data folder), NAME=FOLDER or just FOLDER; utterances that all have,
by their file names, are drawn. With --seconds 0, MOS and SMOS tests have them whole, however long each is. Listeners
need index.html and audio/, from a disk or any web server; key.json says what they heard, and stays with you. The page
saves each listener's ratings as a JSON file, which they send you.
"""


def add_arguments(parser):
    parser.add_argument("systems", nargs="+", metavar="[NAME=]FOLDER", help="recordings of a system")
    parser.add_argument("--reference", help="the originals: heard openly (MUSHRA, SMOS), and hidden among the systems")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--kind", choices=("mushra", "mos", "smos"), default="mushra")
    parser.add_argument("--number", type=int, default=20, help="of utterances (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each, 0: all (%(default)s)")
    parser.add_argument("--per-listener", type=int, help="trials that one listener is asked for; default: all")
    parser.add_argument(
        "--anchor", type=float, nargs="*", default=[3500.0], help="low-pass cutoffs, Hz, for MUSHRA (3500)"
    )
    parser.add_argument("--sample-rate", type=int, help="of what is heard, Hz; default: the reference's")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn, and of the order (%(default)s)")
    parser.add_argument("--title", help="of the page")
    parser.add_argument("--force", action="store_true", help="overwrite the test that is there")


def run(args):
    from pathlib import Path

    from pscodec.listening.make import make
    from pscodec.utils.errors import UserError

    systems = {}
    for given in args.systems:
        name, _, folder = given.rpartition("=")
        name = name or Path(folder).resolve().name
        if name in systems:
            raise UserError(f"two systems are called {name}; name them: NAME=FOLDER")
        systems[name] = folder
    if args.number < 1 or args.seconds < 0 or (args.per_listener or 1) < 1:
        raise UserError("--number and --per-listener are at least 1, --seconds at least 0")
    path = Path(args.out) / "index.html"
    if path.exists() and not args.force:
        raise UserError(f"{path} exists; --force overwrites it")
    how = {"number": args.number, "seconds": args.seconds or None, "anchors": args.anchor, "seed": args.seed}
    how |= {"sample_rate": args.sample_rate, "per_listener": args.per_listener, "title": args.title}
    key, without = make(args.out, systems, args.reference, args.kind, **how)
    items = len({item for item, _ in key.stimuli.values()})
    left_out = f"; {without} more are not in all folders" if without else ""
    print(f"{path}: {args.kind}, {len(systems)} systems, {items} utterances, {len(key.trials)} trials{left_out}")
