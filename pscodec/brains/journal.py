"""What a training run tells: lines on the terminal and in train_log.txt, curves.tsv, TensorBoard."""

import tempfile
import time
from pathlib import Path

from pscodec.features import decibels
from pscodec.utils.files import write_text


class Journal:
    """Writes into the experiment folder `exp`; rows of curves.tsv past `resume_step` are dropped (they come again)."""

    header = "step\tset\tname\tvalue\n"

    def __init__(self, exp, resume_step=0):
        self.exp = Path(exp)
        self.curves = self.exp / "curves.tsv"
        rows = self.curves.read_text().splitlines(keepends=True)[1:] if self.curves.exists() else []
        kept = [row for row in rows if row.endswith("\n") and int(row.split("\t")[0]) <= resume_step]
        write_text(self.curves, self.header + "".join(kept))
        self.board = self._board(resume_step)

    def _board(self, resume_step):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.say("TensorBoard is not installed; curves go to curves.tsv only")
            return None
        return SummaryWriter(self.exp / "tensorboard", purge_step=resume_step + 1)

    def say(self, line):
        """One line for the reader, with the time in the log file."""
        print(line, flush=True)
        with open(self.exp / "train_log.txt", "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def scalars(self, step, stage, values):
        """`values` (name -> number) of `stage` (train or valid) after `step` steps."""
        with open(self.curves, "a", encoding="utf-8") as file:
            file.writelines(f"{step}\t{stage}\t{name}\t{value:.6g}\n" for name, value in values.items())
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(f"{stage}/{name}", value, step)

    def speech(self, step, signals, sample_rate):
        """`signals` (name -> `[C, L]`): their sound, channels averaged, and their spectrograms one above the other."""
        if not self.board:
            return
        import matplotlib.image

        from pscodec.utils.plot import spectrograms

        hop = sample_rate // 100
        levels = [decibels(wav.mean(0), hop_length=hop) for wav in signals.values()]
        with tempfile.TemporaryDirectory() as folder:
            spectrograms(f"{folder}/figure.png", levels, list(signals), sample_rate, hop)
            self.board.add_image(
                "spectrograms", matplotlib.image.imread(f"{folder}/figure.png"), step, dataformats="HWC"
            )
        for name, wav in signals.items():
            self.board.add_audio(name, wav.mean(0), step, sample_rate)

    def close(self):
        if self.board:
            self.board.close()
