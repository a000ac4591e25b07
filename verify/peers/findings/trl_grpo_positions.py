"""trl==1.16.0: GRPO and RLOO score a GPT-2's completions at the wrong positions where prompts are padded on the left.

The trainers pad prompts on the left and call the model with `attention_mask` but without `position_ids`. A GPT-2, or
whatever has learned positions, then counts padding: a completion's log-probs depend on how long the longest prompt of the
batch is, and differ from those of the sampler, which is given positions by `generate`. On-policy ratios, the KL term and
the gradient are those of a shifted sequence. Models with rotary positions do not see it. Due are positions that count what
the mask leaves: `(attention_mask.cumsum(-1) - 1).clamp(min=0)`.

Reported for Online DPO, XPO and Nash-MD as huggingface/trl#6800; `_get_per_token_logps_and_entropies` of GRPO and RLOO has
it too.
"""

import contextlib
import sys
from types import SimpleNamespace

import torch
from transformers import GPT2Config, GPT2LMHeadModel
from trl import GRPOTrainer, RLOOTrainer
from trl.trainer.utils import add_fused_lm_head

torch.manual_seed(0)
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
)
model.transformer.wpe.weight.data.normal_()
model.eval()
add_fused_lm_head(model, outputs=("log_probs", "entropy"))

prompt, completion = [5, 6, 7], [8, 9]


def logps(kind, padding):
    """Of the completion, the prompt padded on the left."""
    trainer = object.__new__(kind)
    trainer.accelerator = SimpleNamespace(autocast=contextlib.nullcontext, is_main_process=False)
    ids = torch.tensor([[0] * padding + prompt + completion])
    mask = torch.tensor([[0] * padding + [1] * len(prompt + completion)])
    with torch.no_grad():
        return trainer._get_per_token_logps_and_entropies(model, ids, mask, len(completion))[0][0].tolist()


wrong = False
for kind in (GRPOTrainer, RLOOTrainer):
    due = logps(kind, 0)
    for padding in (1, 4):
        came = logps(kind, padding)
        wrong |= max(abs(a - b) for a, b in zip(due, came, strict=True)) > 1e-4
        print(f"{kind.__name__}, padding {padding}: expected {due}, got {came}")
sys.exit(wrong)
