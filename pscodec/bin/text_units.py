"""Stage 2 of speech synthesis: the units that texts are cut into.

    python -m pscodec.bin.text_units --data-dir data/train --kind pieces --size 200 --out units

Texts are normalised first (NFKC, lower case, single spaces; numbers stay as they are written). Learned from the
training texts alone; a symbol that they do not have is refused later, in one line. Units that are there stay.
"""

import argparse
from pathlib import Path

from pscodec.data.text import KINDS, NOTE, Units, learn_units, texts_of
from pscodec.utils.errors import UserError, one_line_errors


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="data folder with a file `text`")
    parser.add_argument("--kind", choices=KINDS, default="pieces", help="of units (%(default)s)")
    parser.add_argument("--size", type=int, default=200, help="pieces at most (%(default)s)")
    parser.add_argument("--language", default="en-us", help="of phonemes, espeak-ng's name of it (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)
    texts = texts_of(args.data_dir)
    if (args.out / NOTE).is_file():
        units = Units.load(args.out)
        if units.kind != args.kind or (units.kind == "phonemes" and units.language != args.language):
            raise UserError(f"{args.out}: has {units.kind} {units.language or ''}; choose another --out")
    else:
        units = learn_units(texts.values(), args.kind, args.size, args.language)
        units.save(args.out)
    lengths = [len(units(text)) for text in texts.values()]
    print(f"{args.out}: {len(units) - 1} {units.kind}; {len(texts)} texts, {sum(lengths) / len(lengths):.1f} each")


if __name__ == "__main__":
    main()
