"""trl==1.16.0: DPO's default loss type, sigmoid, takes label_smoothing and ignores it without a word.

Until February 2026 `DPOConfig(label_smoothing=0.3)` with the default loss type was cDPO: -(1 - ε) log σ(h) - ε log σ(-h).
Since huggingface/trl#3906 the loss is -log σ(h) whatever ε is. The documentation names robust and EXO alone now, but a
configuration that worked before is still accepted, and trains on another loss. Due is the term, or an error for an ε that
the loss type does not use.

No report of it was found, beside that change itself.
"""

import math
import sys
import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

WORDS = {"[PAD]": 0, "[EOS]": 1, "[UNK]": 2, "yes": 3, "no": 4, "why": 5}


def model(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    wide = {"initializer_range": 0.5, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=6, n_positions=16, n_embd=16, n_layer=1, n_head=2, **wide))


def first_step(label_smoothing: float) -> dict[str, float]:
    """What the first step of a run logs: its loss and margin, of one pair."""
    words = Tokenizer(WordLevel(WORDS, "[UNK]"))
    words.pre_tokenizer = Whitespace()
    special = {"pad_token": "[PAD]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    rows = Dataset.from_list([{"prompt": "why", "chosen": " yes", "rejected": " no"}])
    with tempfile.TemporaryDirectory() as folder:
        course = {
            "max_steps": 1,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
        }
        asked = DPOConfig(folder, label_smoothing=label_smoothing, beta=0.5, **course)
        trainer = DPOTrainer(model(0), model(1), args=asked, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
        return trainer.state.log_history[0]


logged = {smoothing: first_step(smoothing) for smoothing in (0.0, 0.3)}
margin = logged[0.3]["rewards/margins"]
due = 0.7 * math.log1p(math.exp(-margin)) + 0.3 * math.log1p(math.exp(margin))
print("loss without label smoothing", logged[0.0]["loss"])
print(f"loss with label_smoothing 0.3, at a margin of {margin:.4f}: expected {due:.4f}, got", logged[0.3]["loss"])
sys.exit(abs(logged[0.3]["loss"] - due) > 1e-3)
