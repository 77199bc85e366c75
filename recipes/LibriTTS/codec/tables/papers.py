"""The PSCodec and TiCodec papers' tables: their figures (paper/), their rows as we train them, and their test sets."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pscodec.bin.report import read_paper

RECIPE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """A line of systems.tsv."""

    id: str
    systems: tuple[str, ...]
    config: str
    parent: str | None
    steps: int
    train_args: str
    beside: str | None


@dataclass(frozen=True)
class Paper:
    """A paper's tables: `folder` has table1.tsv ... and, in systems.tsv, how we train their rows; `titles` by table.

    `n_q`: numbers of codebooks. `against`: what the others are compared with, by table, else its first system. `sets`:
    our splits of the corpora it tests on -> its names; `names`: these in words. `unheard`: tables of speech unlike that
    of training, with their test corpora. `test_sets`: of LibriTTS, where they are not run.sh's.
    """

    folder: Path
    titles: dict[str, str]
    n_q: str
    against: dict[str, str]
    sets: dict[str, dict[str, str]]
    names: dict[str, str]
    unheard: dict[str, tuple[str, ...]]
    test_sets: str = ""
    out: str = "tables"

    @cached_property
    def systems(self):
        """The `Row`s of systems.tsv; `-` is none."""
        text = (self.folder / "systems.tsv").read_text(encoding="utf-8")
        rows = []
        for line in [line for line in text.splitlines() if line and line[0] != "#"][1:]:
            id_, systems, config, parent, steps, train_args, beside = (c if c != "-" else "" for c in line.split("\t"))
            names = tuple(name.strip() for name in systems.split(";"))
            rows.append(Row(id_, names, config, parent or None, int(steps), train_args, beside or None))
        return rows

    @cached_property
    def rows(self):
        """Its own figures: table -> rows."""
        return {t: read_paper(self.folder / f"table{i}.tsv") for i, t in enumerate(self.titles, 1)}

    def order(self, table):
        """`[(system, Row or None)]` as a table lists them, with those that stand beside one of them."""
        by_name = {name: row for row in self.systems if not row.beside for name in row.systems}
        order = []
        for name in dict.fromkeys(row["system"] for row in self.rows[table]):
            order.append((name, by_name.get(name)))
            order += [(row.systems[0], row) for row in self.systems if row.beside == name]
        return order

    def test_sets_of(self, table, corpus):
        """The paper's, and those of a corpus that it does not have: a voice never heard is out of domain."""
        sets = [*dict.fromkeys(row["testset"] for row in self.rows[table])]
        if corpus in self.sets:
            return sets
        return [*sets, f"{corpus} test_unseen" if table in self.unheard else f"{corpus} test"]


PSCODEC = Paper(
    folder=RECIPE / "paper",
    titles={
        "I": "in domain: LibriTTS test-clean and test-other",
        "II": "out of domain: LJSpeech",
        "III": "ablation of PSCodec-CasAN",
        "IV": "ablation of PSCodec-DRL-ICT",
        "V": "ablation of PSCodec-Base",
    },
    n_q="1 2",
    against={"I": "PSCodec-Base", "II": "PSCodec-Base"},
    sets={
        "libritts": {"test_clean": "test_clean", "test_other": "test_other"},
        "ljspeech": {"test_ljspeech": "ljspeech"},
    },
    names={"test_clean": "LibriTTS test-clean", "test_other": "LibriTTS test-other", "ljspeech": "LJSpeech"},
    unheard={"II": ("ljspeech",)},
)
TICODEC = Paper(
    folder=RECIPE / "paper/ticodec",
    titles={"1": "in domain: LibriTTS", "2": "out of domain: AISHELL-3 and VCTK"},
    n_q="1 2 4",
    against={"1": "HifiCodec", "2": "HifiCodec"},
    sets={
        "libritts": {"test_100": "libritts"},
        "aishell3": {"test_aishell3": "aishell3"},
        "vctk": {"test_vctk": "vctk"},
    },
    names={"libritts": "LibriTTS", "aishell3": "AISHELL-3", "vctk": "VCTK"},
    unheard={"2": ("aishell3", "vctk")},
    test_sets="test_100",
    out="ticodec_tables",
)
PAPERS = {"pscodec": PSCODEC, "ticodec": TICODEC}


def run_name(row, n_q, seed):
    return f"{row.id}_{n_q}q" + (f"_seed{seed}" if seed else "")
