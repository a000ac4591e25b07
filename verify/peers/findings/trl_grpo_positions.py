"""trl==1.16.0: GRPO and RLOO score a GPT-2's completions at the wrong positions where prompts are padded on the left.

The trainers pad prompts on the left and call the model with `attention_mask` but without `position_ids`. A GPT-2, or
whatever has learned positions, then counts padding: a completion's log-probs depend on how long the longest prompt of the
batch is, and differ from those of the sampler, which is given positions by `generate`. On-policy ratios, the KL term and
the gradient are those of a shifted sequence. Models with rotary positions do not see it. `attention_mask.cumsum(-1) - 1`,
as in TRL's PPO, is due. For Online DPO, XPO and Nash-MD this is huggingface/trl#6800; `_get_per_token_logps_and_entropies`
has it too.
"""

import contextlib
import sys
from types import SimpleNamespace

import torch
from transformers import GPT2Config, GPT2LMHeadModel
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

torch.manual_seed(0)
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
)
model.transformer.wpe.weight.data.normal_()
model.eval()
add_fused_lm_head(model, outputs=("log_probs", "entropy"))

trainer = object.__new__(GRPOTrainer)
trainer.accelerator = SimpleNamespace(autocast=contextlib.nullcontext, is_main_process=False)
prompt, completion = [5, 6, 7], [8, 9]


def logps(padding):
    """Of the completion, the prompt padded on the left."""
    ids = torch.tensor([[0] * padding + prompt + completion])
    mask = torch.tensor([[0] * padding + [1] * len(prompt + completion)])
    with torch.no_grad():
        return trainer._get_per_token_logps_and_entropies(model, ids, mask, len(completion))[0][0].tolist()


due = logps(0)
for padding in (1, 4):
    print(f"padding {padding}: expected {due}, got {logps(padding)}")
sys.exit(max(abs(a - b) for a, b in zip(due, logps(4), strict=True)) > 1e-4)
