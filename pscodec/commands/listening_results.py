"""what the listeners of a listening test said"""

DETAILS = """
  pscodec listening-results test results/*.json --json scores.json

`test` is what pscodec listening-test made. Of a MUSHRA test, listeners who rate the hidden reference below 90 in at
least 20 % of the cases, or the low anchor above 80 in more than 50 %, are left out, as in EnCodec's paper (section
4.3). Intervals are of 95 %: over ratings, and over the means of listeners, the wider one where listeners disagree.
"""


def add_arguments(parser):
    parser.add_argument("test", help="folder of the test")
    parser.add_argument("results", nargs="+", metavar="RESULTS", help="JSON files that the page saved")
    parser.add_argument("--keep-all", action="store_true", help="leave no listener out")
    parser.add_argument("--json", help="write the table to this file, too")


def run(args):
    import json

    from pscodec.listening.make import read_key
    from pscodec.listening.results import distrust, read_results, summarise
    from pscodec.utils.errors import UserError
    from pscodec.utils.files import write_text

    key = read_key(args.test)
    results = read_results(args.results, key)
    left_out = {} if args.keep_all else {k: why for k, r in results.items() if (why := distrust(r, key))}
    for listener, why in left_out.items():
        print(f"left out: {listener} rates {why}")
    summary = summarise({k: r for k, r in results.items() if k not in left_out}, key)
    if not summary["listeners"]:
        raise UserError("no listener is left; --keep-all leaves none out")
    print(f"{key.kind.upper()}, {summary['listeners']} listeners; mean, 95 % interval over ratings, over listeners")
    for name, entry in summary["systems"].items():
        print(line(name, entry))
    if summary["differences"]:
        print("differences, by listener and utterance")
    for name, entry in summary["differences"].items():
        print(line(name, entry))
    if args.json:
        write_text(args.json, json.dumps(summary | {"left_out": left_out}, indent=1) + "\n")


def line(name, entry):
    """A line of the table: `name  mean ± over ratings  ± over listeners  ratings`."""
    if entry["mean"] is None:
        return f"  {name:24}       -"
    halves = ("      -" if h is None else f"± {h:5.2f}" for h in (entry["ci95"], entry["ci95_listeners"]))
    return f"  {name:24} {entry['mean']:7.2f} {'  '.join(halves)}  {entry['n']:5} ratings"
