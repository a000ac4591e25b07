"""The DPO step of TRL for `bench`: DPOTrainer's own loop on our weights and pairs, in an environment that has TRL.

Tokens reach it as text, numbers with spaces between, so that nothing of the trainer is replaced.
"""

import tempfile
from typing import Any

import datasets
import tokenizers
import torch
import transformers
import trl

from .bench_steps import BETA, LEARNING_RATE, AfterStep, Pair, Workload
from .model_by_hand import Config, initial_weights

END = "<end>"


class Turns(transformers.TrainerCallback):
    """Hands over at the end of each step, when its loss and gradient norm are logged."""

    def __init__(self, after_step: AfterStep) -> None:
        self.after_step = after_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        self.after_step((logs["loss"], logs["grad_norm"]))


def run(given: Workload, precomputed: bool, after_step: AfterStep) -> None:
    """Steps without end, of float32 and without gradient checkpointing, which are not TRL's defaults; nothing is saved."""
    policy, reference = (gpt2(given.config, seed) for seed in (0, 1))
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.DPOTrainer(
            model=policy,
            ref_model=reference,
            args=arguments(folder, len(given.batches[0]), precomputed),
            train_dataset=datasets.Dataset.from_list([row(pair) for pairs in given.batches for pair in pairs]),
            processing_class=tokenizer(given.config.vocab_size),
            callbacks=[Turns(after_step)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        if precomputed:
            trainer.ref_model = None  # not needed any more: without ref_model the policy itself would have been asked
        trainer.train()


def arguments(folder: str, pairs: int, precomputed: bool) -> trl.DPOConfig:
    return trl.DPOConfig(
        folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        precompute_ref_log_probs=precomputed,
        beta=BETA,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        per_device_train_batch_size=pairs,
        train_sampling_strategy="sequential",
        max_steps=10**9,
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def gpt2(config: Config, seed: int) -> transformers.GPT2LMHeadModel:
    """The model that `models` makes of this seed."""
    sizes = {"n_positions": config.context, "n_embd": config.width, "n_layer": config.layers, "n_head": config.heads}
    end = config.vocab_size - 1
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=config.vocab_size, bos_token_id=end, eos_token_id=end, **sizes)
    )
    weights = {f"transformer.{name}": torch.tensor(x) for name, x in initial_weights(config, seed).items()}
    model.load_state_dict(weights | {"lm_head.weight": weights["transformer.wte.weight"]})
    return model


def tokenizer(size: int) -> transformers.PreTrainedTokenizerFast:
    words = {str(token): token for token in range(size - 1)} | {END: size - 1}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=END))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=END)


def row(pair: Pair) -> dict[str, str]:
    """The prompt's words, and behind it each response's."""
    prompt, *responses = pair
    chosen, rejected = (" ".join(["", *map(str, response[:-1]), END]) for response in responses)
    return {"prompt": " ".join(map(str, prompt)), "chosen": chosen, "rejected": rejected}
