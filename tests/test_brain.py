"""What the training loop counts and writes down."""

import math

import pytest
import torch

from pscodec.brains.codec import count_codes, perplexity_and_usage
from pscodec.brains.journal import Journal
from pscodec.layers.transformer import SelfAttention


def test_perplexity_and_usage_by_hand():
    codes = torch.tensor([[[0, 0, 1, 1], [2, 2, 2, 2]]])
    counts = count_codes(codes, 4, n_q=3)
    assert counts.tolist() == [[2, 2, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0]]
    perplexity, usage = perplexity_and_usage(counts)
    assert perplexity.tolist() == pytest.approx([2.0, 1.0]) and usage.tolist() == [0.5, 0.25]
    perplexity, _ = perplexity_and_usage(torch.tensor([[1.0, 3.0]]))
    assert perplexity.item() == pytest.approx(math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75)))


def test_a_resumed_journal_forgets_what_will_come_again(tmp_path):
    journal = Journal(tmp_path)
    for step in (10, 20, 30):
        journal.scalars(step, "train", {"mel": step / 10})
    journal.speech(20, {"reference": torch.randn(1, 4800).clamp(-1, 1)}, 24000)
    journal.close()
    with open(tmp_path / "curves.tsv", "a") as file:
        file.write("40\ttrain\tm")  # cut off by a kill
    Journal(tmp_path, resume_step=20).scalars(30, "valid", {"mel": 9})
    rows = (tmp_path / "curves.tsv").read_text().splitlines()
    assert rows == ["step\tset\tname\tvalue", "10\ttrain\tmel\t1", "20\ttrain\tmel\t2", "30\tvalid\tmel\t9"]


def test_attention_is_the_same_in_training_and_in_use():
    torch.manual_seed(0)
    attention, x = SelfAttention(32, 4), torch.randn(2, 50, 32)
    assert torch.allclose(attention.train()(x), attention.eval()(x), atol=1e-5)
