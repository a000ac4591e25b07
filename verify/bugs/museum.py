"""The museum: real bugs of public code, each as a patch of the specification's text, with its history.

Every one of them let training run on. Whoever changes the suite must still catch them all. A bug lives in the file where this
specification does what the library did; what only a whole model or a data pipeline can get wrong (tokenizers, dropout,
adapters, accumulation in a trainer) is not here. Under "conventions" stand readings that are right under another name: a
convention is an operation of its own, never a tolerance, so one must not pass for the other.

CONTROLS are the opposite: rewrites that are right, which the suite must not accuse.
"""

from collections.abc import Iterator
from typing import NamedTuple

from verify.bugs.specimen import SOURCES


class Bug(NamedTuple):
    """A patch. `old` occurs once in `file`; the cases of each of `operations` must catch `new`.

    New lines may call any function of `arrays` without importing it.
    """

    id: str
    operations: tuple[str, ...]
    file: str
    old: str
    new: str
    history: str
    where: str  # owner/repository#thread, or the document that says so

    @property
    def link(self) -> str:
        repository, hash_, thread = self.where.partition("#")
        return f"https://github.com/{repository}/issues/{thread}" if hash_ else self.where

    def apply(self) -> str:
        """The file's text with the patch. ValueError unless the old text is there exactly once."""
        source = SOURCES[self.file]
        if source.count(self.old) != 1:
            raise ValueError(f"{self.id}: old text must occur once in {self.file}, got {source.count(self.old)} times")
        return source.replace(self.old, self.new)


def by_operation(name: str) -> Iterator[Bug]:
    """The bugs that the cases of one operation must catch."""
    return (bug for bug in BUGS if name in bug.operations)


FORMULAS = [
    Bug(
        "ipo-sum-instead-of-mean",
        ("ipo_length_normalized",),
        "offline/ipo.py",
        "chosen_ratios / chosen_tokens - rejected_ratios / rejected_tokens",
        "chosen_ratios - rejected_ratios",
        "TRL before January 2024, torchtune, ms-swift: log-ratios meant as means were sums, so that the target 1/(2β) meant"
        " another thing for each length. Losses of hundreds to thousands, dominated by long pairs.",
        "huggingface/trl#1265",
    ),
    Bug(
        "ipo-target-from-wrong-loss-type",
        ("ipo",),
        "offline/ipo.py",
        "    excess = chosen_ratios - rejected_ratios - 1 / (2 * beta)\n",
        "    h = beta * (chosen_ratios - rejected_ratios)\n"
        "    push = beta * sigmoid(-h)\n"
        "    return PairLoss(softplus(-h), -push, push, beta * chosen_ratios, beta * rejected_ratios)\n"
        "    excess = 0.0\n",
        "ms-swift: the trainer stored loss_type and called the loss without it, so that IPO and hinge ran as DPO. All curves"
        " were identical.",
        "modelscope/ms-swift#10167",
    ),
    Bug(
        "cdpo-smoothing-dropped-in-refactor",
        ("cdpo",),
        "offline/cdpo.py",
        "losses = -(1 - label_smoothing) * log_sigmoid(h) - scaled(label_smoothing, log_sigmoid(-h))\n\n"
        "    weight = beta * ((1 - label_smoothing) * sigmoid(-h) - label_smoothing * sigmoid(h))",
        "losses = -log_sigmoid(h)\n\n    weight = beta * sigmoid(-h)",
        "TRL from February 2026: label smoothing left the sigmoid branch in a refactoring while its option stayed. The loss"
        " went to 0 instead of the entropy of the label.",
        "huggingface/trl#3906",
    ),
    Bug(
        "sppo-beta-inside-square",
        ("sppo",),
        "offline/sppo.py",
        "excess = log_ratios - eta * (win_rates - 0.5)",
        "excess = log_ratios / eta - (win_rates - 0.5)",
        "TRL for a day in May 2024: β = 1/η multiplied the log-ratio instead of dividing the target. Loss and gradient were"
        " smaller by β², 1e-6 at the usual setting; nothing moved.",
        "huggingface/trl#1615",
    ),
    Bug(
        "fused-dpo-sign-flip",
        ("dpo",),
        "offline/dpo.py",
        "losses = -log_sigmoid(h)\n\n    weight = beta * sigmoid(-h)",
        "losses = log_sigmoid(h)\n\n    weight = -beta * sigmoid(-h)",
        "Liger-Kernel, November to December 2024: a base class written for ORPO subtracted the already negated DPO loss, which"
        " then pushed chosen responses down. Its test had copied the line and passed.",
        "linkedin/Liger-Kernel#484",
    ),
    Bug(
        "sum-vs-mean-loss-reduction",
        ("dpo",),
        "offline/dpo.py",
        "weight = beta * sigmoid(-h)",
        "weight = beta * sigmoid(-h) / max(len(h), 1)",
        "HALOs, reversed three times: sum or mean over the batch, so that the learning rate scaled with its size. Here the"
        " gradient is the mean's where the sum's is due.",
        "https://github.com/ContextualAI/HALOs/commit/dff58f8",
    ),
    Bug(
        "rpo-alpha-on-wrong-term",
        ("orpo",),
        "offline/orpo.py",
        "losses = -chosen_means - scaled(odds_weight, log_sigmoid(h))",
        "losses = -odds_weight * chosen_means - log_sigmoid(h)",
        "TRL 2024, DPO with a likelihood term: the weight multiplied the preference term instead of the other. A small weight"
        " gave nearly pure supervised training. Here on ORPO, which has the same two terms.",
        "huggingface/trl#1705",
    ),
    Bug(
        "alpha-never-passed-on",
        ("orpo",),
        "offline/orpo.py",
        "chosen_push = odds_weight * exp(log_sigmoid(-h) - log1m_chosen)\n    rejected_push = odds_weight * exp(",
        "odds_weight = 1.0\n    losses = -chosen_means - log_sigmoid(h)\n"
        "    chosen_push = exp(log_sigmoid(-h) - log1m_chosen)\n    rejected_push = exp(",
        "Liger-Kernel until May 2026: the weight between the two terms was accepted and never handed to the base loss: 1.0"
        " whatever the user set.",
        "linkedin/Liger-Kernel#1194",
    ),
    Bug(
        "double-length-normalisation-of-sft-term",
        ("orpo",),
        "offline/orpo.py",
        "losses = -chosen_means -",
        "losses = -chosen_means / chosen_tokens -",
        "LLaMA-Factory until January 2025: the likelihood term divided a mean by the length once more, and vanished for long"
        " answers.",
        "hiyouga/LLaMA-Factory#6722",
    ),
    Bug(
        "length-counted-from-nonzero-ratio",
        ("ipo_length_normalized",),
        "offline/ipo.py",
        "chosen_tokens = floats_like(chosen_lengths, policy_chosen_logps)",
        "chosen_tokens = where(chosen_ratios == 0, 0.0, floats_like(chosen_lengths, policy_chosen_logps))",
        "HALOs: the length was the number of tokens with a nonzero log-ratio. At step 0, where the policy is the reference,"
        " all are 0 and the mean is 0/0.",
        "https://github.com/ContextualAI/HALOs/blob/main/train/trainers.py",
    ),
    Bug(
        "precomputed-ref-ignored",
        ("dpo",),
        "offline/dpo.py",
        "    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)",
        "    reference_chosen_logps, reference_rejected_logps = policy_chosen_logps, policy_rejected_logps\n"
        "    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)",
        "TRL 0.9 and 0.10: cached reference log-probs were used only if another option was set; else the policy was its own"
        " reference. Loss frozen at 0.6931. A year later the collator dropped the cached columns: same symptom.",
        "huggingface/trl#1961",
    ),
    Bug(
        "chosen-rejected-metrics-swapped",
        ("dpo",),
        "offline/dpo.py",
        "weight, chosen_rewards, rejected_rewards)",
        "weight, rejected_rewards, chosen_rewards)",
        "LLaMA-Factory, and TRL's KTO before March 2024: chosen and rejected metrics changed places. Curves looked inverted"
        " while margins were fine.",
        "hiyouga/LLaMA-Factory#6050",
    ),
    Bug(
        "margin-times-beta-twice",
        ("dpo",),
        "offline/dpo.py",
        "weight, chosen_rewards, rejected_rewards)",
        "weight, beta * chosen_rewards, beta * rejected_rewards)",
        "tinker-cookbook: the logged margin was multiplied by β once more.",
        "thinking-machines-lab/tinker-cookbook#172",
    ),
]

SEQUENCES = [
    Bug(
        "mask-not-shifted",
        ("sequence_logps",),
        "logprobs.py",
        "predicts = response_mask[:, 1:]",
        "predicts = response_mask[:, :-1]",
        "mlx-lm-lora 2.1.0 to 3.1.2: log-probs of the next token under the mask of this one. The first answer token was"
        " dropped and the token after the answer scored.",
        "Goekdeniz-Guelmez/mlx-lm-lora#80",
    ),
    Bug(
        "labels-padded-with-pad-id",
        ("sequence_logps",),
        "logprobs.py",
        "predicts = response_mask[:, 1:]",
        "predicts = cumulative_sum(response_mask, axis=1)[:, 1:] > 0",
        "The reference implementation of DPO in its first week: labels were padded with the pad token, not with -100, so that"
        " padding after the response was scored. Log-probs depended on the neighbours' lengths.",
        "https://github.com/eric-mitchell/direct-preference-optimization/commit/21fd7fe",
    ),
    Bug(
        "prompt-tokens-in-logp",
        ("sequence_logps",),
        "logprobs.py",
        "predicts = response_mask[:, 1:]",
        "predicts = response_mask[:, 1:] | (cumulative_sum(response_mask, axis=1)[:, 1:] == 0)",
        "OpenRLHF until March 2024: sums ran over prompt and answer. In DPO the prompt cancels (a control below); with means"
        " or unpaired data it does not.",
        "OpenRLHF/OpenRLHF#237",
    ),
    Bug(
        "only-chosen-half-masked",
        ("sequence_logps",),
        "logprobs.py",
        "predicts = response_mask[:, 1:]",
        "rejected = np.arange(len(tokens))[:, None] >= len(tokens) / 2\n"
        "    prompt = cumulative_sum(response_mask, axis=1)[:, 1:] == 0\n"
        "    predicts = response_mask[:, 1:] | rejected & prompt",
        "OpenRLHF, March to May 2024: the list of prompt lengths covered the first half of [chosen; rejected], so that"
        " rejected rows kept their prompt, and training lowered its likelihood.",
        "OpenRLHF/OpenRLHF#294",
    ),
    Bug(
        "left-padding-with-prompt-length-mask",
        ("sequence_logps",),
        "logprobs.py",
        "predicts = response_mask[:, 1:]",
        "place = np.arange(response_mask.shape[1])\n"
        "    predicts = (place >= len(place) - sum_over(response_mask, axis=1, keepdims=True))[:, 1:]",
        "OpenRLHF until July 2024: the mask was rebuilt from a length for rows padded on the other side. Right only for the"
        " longest row of a batch.",
        "https://github.com/OpenRLHF/OpenRLHF/commit/a32a7322",
    ),
    Bug(
        "pad-equals-eos-masks-eos",
        ("sequence_logps",),
        "logprobs.py",
        "predicts = response_mask[:, 1:]",
        "end = np.max(where(response_mask, tokens, 0))\n    predicts = (response_mask & (tokens != end))[:, 1:]",
        "TRL, orpo: padding was masked by its token id, and that id was EOS's, so that the real EOS was masked with it. The"
        " model never learned to stop.",
        "huggingface/trl#3200",
    ),
    Bug(
        "length-counted-by-sign-of-logp",
        ("sequence_logps",),
        "logprobs.py",
        "return SequenceLogps(logps, sum_over(response_mask, axis=1), grad_logits)",
        "lengths = where(logps > 0, sum_over(response_mask, axis=1), 1)\n    return SequenceLogps(logps, lengths, grad_logits)",
        "HALOs for a day in November 2024: tokens were counted where log-probs are > 0, which they never are: every length 1,"
        " and the mean of SimPO and IPO a sum.",
        "https://github.com/ContextualAI/HALOs/commit/d8fd14f",
    ),
    Bug(
        "length-counted-by-nonzero-logp",
        ("sequence_logps",),
        "logprobs.py",
        "return SequenceLogps(logps, sum_over(response_mask, axis=1), grad_logits)",
        "token_logps = where(predicts, pick(log_softmax(logits_that_count), targets), 0.0)\n"
        "    return SequenceLogps(logps, sum_over(token_logps != 0, axis=1), grad_logits)",
        "HALOs, the first repair of the last one: tokens were counted where the log-prob is not 0, which a certain token's is.",
        "https://github.com/ContextualAI/HALOs/commit/688bc0f",
    ),
    Bug(
        "dpo-average-logprob-default",
        ("sequence_logps",),
        "logprobs.py",
        "return SequenceLogps(logps, sum_over(response_mask, axis=1), grad_logits)",
        "lengths = sum_over(response_mask, axis=1)\n"
        "    return SequenceLogps(\n"
        "        logps / floats_like(lengths, logps), lengths, grad_logits / floats_like(lengths, logps)[:, None, None]\n"
        "    )",
        "Liger-Kernel, November 2024 to May 2025: fused DPO got means over tokens, which divides β by the length. The loss"
        " stayed near log 2.",
        "linkedin/Liger-Kernel#676",
    ),
    Bug(
        "empty-completion-mean",
        ("sequence_logps", "linear_sequence_logps"),
        "logprobs.py",
        '    Rule("response_mask", "must be true somewhere in every row", lambda response_mask: response_mask.any(axis=1)),\n',
        "",
        "TRL, several versions: a completion left empty went through, and every loss that divides by a length became NaN.",
        "huggingface/trl#1033",
    ),
    Bug(
        "loss-mask-ignored-by-fused-kernel",
        ("linear_sequence_logps",),
        "logprobs.py",
        "counts = response_mask[:, 1:].reshape(-1)",
        "counts = response_mask[:, 1:].reshape(-1) | True",
        "TRL with Liger's kernel: the fused path was given the attention mask, so that prompt and tool output were trained on;"
        " in Liger an ignored index was accepted and never used.",
        "huggingface/trl#4975",
    ),
    Bug(
        "fused-grpo-argmax-tokens",
        ("linear_sequence_logps",),
        "logprobs.py",
        "states, targets, counts = predicting_positions(hidden, tokens, response_mask)",
        "states, targets, counts = predicting_positions(hidden, tokens, response_mask)\n"
        "    targets = np.argmax(states @ weight.T, axis=1)",
        "Liger-Kernel, February to April 2025: fused GRPO scored the likeliest token in place of the sampled one. Finite,"
        " smooth, and the reward did not rise.",
        "linkedin/Liger-Kernel#628",
    ),
]

UNPAIRED = [
    Bug(
        "kto-kl-and-data-in-one-stream",
        ("kto_reference_point",),
        "offline/kto.py",
        "mean_over(policy_mismatched_logps - reference_mismatched_logps)",
        "mean_over(policy_mismatched_logps[:2] - reference_mismatched_logps[:2])",
        "TRL's first KTO, February 2024: mismatched rows were shuffled into the data, and the mean ran over the few that"
        " happened to be in the batch.",
        "huggingface/trl#1380",
    ),
    Bug(
        "kto-pair-kl-not-detached",
        ("kto",),
        "offline/kto.py",
        "    return UnpairedLoss(losses, grad_policy_logps, rewards)",
        "    grad_policy_logps = grad_policy_logps - mean_over(grad_policy_logps)\n"
        "    return UnpairedLoss(losses, grad_policy_logps, rewards)",
        "TRL's paired KTO, December 2023 to June 2024: the reference point came from the batch with its gradient attached.",
        "huggingface/trl#1734",
    ),
    Bug(
        "kto-fused-metric-broadcast",
        ("kto",),
        "offline/kto.py",
        "    return UnpairedLoss(losses, grad_policy_logps, rewards)",
        "    return UnpairedLoss(losses, grad_policy_logps, rewards * floats_like(desirable, rewards)[:, None])",
        "Liger-Kernel since March 2025: rewards [B] times labels [B, 1] became an outer product.",
        "linkedin/Liger-Kernel#592",
    ),
]

ODDS = [
    Bug(
        "orpo-log-one-minus-exp",
        ("orpo",),
        "offline/orpo.py",
        "log1mexp(chosen_means), log1mexp(rejected_means)",
        "log(1 - exp(chosen_means)), log(1 - exp(rejected_means))",
        "orpo, TRL, axolotl, optimum-neuron: log(1 - p) loses every digit as p approaches 1 and is -inf when p rounds to 1."
        " NaN once a short response is nearly certain.",
        "huggingface/trl#4763",
    ),
    Bug(
        "orpo-log1p-of-minus-exp",
        ("orpo",),
        "offline/orpo.py",
        "log1mexp(chosen_means), log1mexp(rejected_means)",
        "log1p(-exp(chosen_means)), log1p(-exp(rejected_means))",
        "The repair of 2024, which cured nothing: the rounding happens in exp. TRL cured it in January 2026.",
        "huggingface/trl#1491",
    ),
    Bug(
        "orpo-log-with-epsilon",
        ("orpo",),
        "offline/orpo.py",
        "log1mexp(chosen_means), log1mexp(rejected_means)",
        "log(1.0001 - exp(chosen_means)), log(1.0001 - exp(rejected_means))",
        "ColossalAI: 1.0001 in place of 1: finite, and biased.",
        "hpcaitech/ColossalAI#6407",
    ),
    Bug(
        "forward-outside-differentiated-closure",
        ("orpo",),
        "offline/orpo.py",
        "return OddsRatioLoss(losses, -(1 + chosen_push) / chosen_tokens, rejected_push / rejected_tokens, h)",
        "return OddsRatioLoss(losses, zeros_like(h), zeros_like(h), h)",
        "mlx-lm-lora: log-probs were computed before the differentiated function and entered it as constants. The loss was"
        " right and its gradient zero.",
        "Goekdeniz-Guelmez/mlx-lm-lora#65",
    ),
]

ON_POLICY = [
    Bug(
        "kl-in-bf16",
        ("kl_estimates",),
        "online/kl.py",
        '    """The three estimates per sampled token, in nats, and the slope in policy_logps of each as a loss."""\n',
        "    policy_logps, reference_logps = (\n"
        '        (x.astype("f4").view("u4") & 0xFFFF0000).view("f4").astype(x.dtype)\n'
        "        for x in (policy_logps, reference_logps)\n"
        "    )\n",
        "OpenRLHF until December 2024: log-probs were subtracted in bfloat16. Between 8 and 16 nats it knows steps of 1/16.",
        "OpenRLHF/OpenRLHF#620",
    ),
    Bug(
        "gae-bootstraps-from-masked-values",
        ("gae",),
        "online/gae.py",
        "        value_after = where(mask[:, t], values[:, t], value_after)\n"
        "        advantage_after = where(mask[:, t], advantage, advantage_after)",
        "        value_after, advantage_after = values[:, t], advantage",
        "ROLL, verl, miles: the recursion ran over padding and tool output and was masked afterwards. Advantages of real"
        " tokens changed with values that do not count.",
        "volcengine/verl#50",
    ),
    Bug(
        "gae-masked-values-count-as-zero",
        ("gae",),
        "online/gae.py",
        "        value_after = where(mask[:, t], values[:, t], value_after)\n"
        "        advantage_after = where(mask[:, t], advantage, advantage_after)",
        "        value_after = where(mask[:, t], values[:, t], 0.0)\n"
        "        advantage_after = where(mask[:, t], advantage, 0.0)",
        "One repair proposed for the last one: zeros instead. Right for padding; across a hole in the response it cuts the"
        " recursion.",
        "alibaba/ROLL#447",
    ),
    Bug(
        "whitening-adds-the-mean-back",
        ("advantages_grpo",),
        "online/advantages.py",
        "return GroupAdvantages(centred / (variance**0.5 + 1e-4))",
        "return GroupAdvantages(centred / (variance**0.5 + 1e-4) + mean_over(rewards, axis=1, keepdims=True))",
        "torchtune: the condition was inverted, and advantages were scaled but not centred. Where their mean is positive every"
        " sampled action is reinforced.",
        "https://github.com/pytorch/torchtune/blob/main/torchtune/rlhf/rewards.py",
    ),
    Bug(
        "std-scaling-condition-inverted",
        ("advantages_grpo",),
        "online/advantages.py",
        "return GroupAdvantages(centred / (variance**0.5 + 1e-4))",
        "return GroupAdvantages(centred)",
        "TRL, August to September 2025: scaling by the group happened exactly when it was switched off.",
        "huggingface/trl#3992",
    ),
    Bug(
        "std-scaling-when-switched-off",
        ("advantages_dr_grpo",),
        "online/advantages.py",
        "return GroupAdvantages(_centred(rewards))",
        "return advantages_grpo.formula(rewards)",
        "The other half of the last one: Dr. GRPO with GRPO's scale.",
        "huggingface/trl#3992",
    ),
    Bug(
        "standardized-over-the-batch",
        ("advantages_grpo",),
        "online/advantages.py",
        "variance = sum_over(centred * centred, axis=1, keepdims=True) / (rewards.shape[1] - 1)",
        "variance = sum_over(centred * centred) / (rewards.size - 1)",
        "Liger-Kernel, February to April 2025: inside the fused kernel advantages were standardized over a whole chunk.",
        "linkedin/Liger-Kernel#628",
    ),
    Bug(
        "single-sample-group",
        ("advantages_dr_grpo", "advantages_rloo"),
        "online/advantages.py",
        'GROUP_RULES = [Rule("rewards", "must hold at least 2 responses a group", lambda rewards: rewards.shape[1] >= 2)]',
        "GROUP_RULES = []",
        "OpenRLHF, TRL in evaluation: a group of one went through. Advantages are 0 and nothing is learned, or 0/0.",
        "OpenRLHF/OpenRLHF#1250",
    ),
    Bug(
        "falsy-zero-score",
        ("advantages_rloo",),
        "online/advantages.py",
        "    responses = rewards.shape[1]\n",
        "    responses = rewards.shape[1]\n    rewards = where(rewards == 0, 1.0, rewards)\n",
        "OpenRLHF until April 2026: `scores or rewards`, which replaces a score of 0 by the other field. Every 0 of a binary"
        " reward was replaced.",
        "OpenRLHF/OpenRLHF#1219",
    ),
    Bug(
        "ratio-constant-no-policy-gradient",
        ("ppo_policy", "grpo"),
        "online/ppo.py",
        "grad_logps = where(clipped, 0.0, -surrogate)",
        "grad_logps = zeros_like(logps)",
        "mlx-lm-lora: one importance-sampling setting made the ratio a constant 1. Only the KL term moved the weights.",
        "Goekdeniz-Guelmez/mlx-lm-lora#50",
    ),
    Bug(
        "kl-slope-of-another-estimator",
        ("grpo",),
        "online/grpo.py",
        "k3, slope = k3_and_slope(where(mask, logps, 0.0), where(mask, reference_logps, 0.0))",
        "k3, slope = k3_and_slope(where(mask, logps, 0.0), where(mask, reference_logps, 0.0))\n"
        "    slope = where(mask, logps - reference_logps, 0.0)",
        "OpenRLHF, verl, open-instruct: an estimate of the divergence and a loss with its gradient were taken for each other."
        " Here k3's value comes with k2's slope.",
        "OpenRLHF/OpenRLHF#1309",
    ),
]

AVERAGES = [
    Bug(
        "nll-counts-padding",
        ("token_mean",),
        "online/aggregation.py",
        "sum_over(floats_like(mask, token_losses)))",
        "mask.shape[0] * mask.shape[1])",
        "TRL's ORPO, April to May 2024: padding had labels. The likelihood term fell with every padded token.",
        "huggingface/trl#1625",
    ),
    Bug(
        "grad-accum-not-divided",
        ("sequence_mean",),
        "online/aggregation.py",
        "mask.shape[0] * row_tokens",
        "row_tokens",
        "TRL with transformers 4.46 to 4.48, and HALOs three times: losses were summed where the trainer expected a mean. Loss"
        " and gradient grew with the number of accumulated batches.",
        "huggingface/trl#2615",
    ),
    Bug(
        "divided-twice-by-grad-accum",
        ("token_mean",),
        "online/aggregation.py",
        "sum_over(floats_like(mask, token_losses)))",
        "sum_over(floats_like(mask, token_losses)) * mask.shape[0])",
        "ms-swift: token sums were divided by the tokens of the window and once more by the trainer.",
        "modelscope/ms-swift#10116",
    ),
    Bug(
        "normalizer-counts-masked-completions",
        ("token_mean",),
        "online/aggregation.py",
        "sum_over(floats_like(mask, token_losses)))",
        "sum_over(floats_like(mask | ~mask.any(axis=1, keepdims=True), token_losses)))",
        "TRL: completions masked as truncated still counted in the normalizer.",
        "huggingface/trl#6369",
    ),
    Bug(
        "length-bias-sequence-mean",
        ("token_mean",),
        "online/aggregation.py",
        "sum_over(floats_like(mask, token_losses)))",
        "mask.shape[0] * sum_over(floats_like(mask, token_losses), axis=1, keepdims=True))",
        "DAPO's weights taken for GRPO's: tokens of long answers weigh less, and wrong answers grow long.",
        "huggingface/trl#2881",
    ),
    Bug(
        "constant-is-the-batch-width",
        ("constant_mean",),
        "online/aggregation.py",
        "mask.shape[0] * max_length",
        "mask.shape[1]",
        "verl's Dr. GRPO: the sum over sequences was not divided by their number, and the constant was the width of the batch.",
        "volcengine/verl#3741",
    ),
]

CONVENTIONS = [
    Bug(
        "ipo-rewards-without-beta",
        ("ipo",),
        "offline/ipo.py",
        "return PairLoss(losses, 2 * excess, -2 * excess, beta * chosen_ratios, beta * rejected_ratios)",
        "return PairLoss(losses, 2 * excess, -2 * excess, chosen_ratios, rejected_ratios)",
        "HALOs reports the rewards of IPO without β.",
        "https://github.com/ContextualAI/HALOs/blob/main/train/trainers.py",
    ),
    Bug(
        "simpo-gamma-is-a-ratio",
        ("simpo",),
        "offline/simpo.py",
        "rejected_tokens) - gamma",
        "rejected_tokens - gamma)",
        "The SimPO repository and HALOs take γ/β, TRL and the paper γ.",
        "https://github.com/princeton-nlp/SimPO/commit/15c4ff8",
    ),
    Bug(
        "simpo-with-likelihood-term",
        ("simpo",),
        "offline/simpo.py",
        "losses = -log_sigmoid(h)",
        "losses = -log_sigmoid(h) - policy_chosen_logps / chosen_tokens",
        "TRL's SimPO is CPO-SimPO unless cpo_alpha is set to 0.",
        "huggingface/trl#1703",
    ),
    Bug(
        "kto-mean-of-clamped",
        ("kto_reference_point",),
        "offline/kto.py",
        "positive_part(mean_over(policy_mismatched_logps - reference_mismatched_logps))",
        "mean_over(positive_part(policy_mismatched_logps - reference_mismatched_logps))",
        "HALOs once had both: the maximum with 0 of the mean, and the mean of the maxima.",
        "https://github.com/ContextualAI/HALOs/blob/main/train/trainers.py",
    ),
    Bug(
        "kto-logistic-loss",
        ("kto",),
        "offline/kto.py",
        "losses = weights * sigmoid(-z)\n\n    grad_policy_logps = -signs * weights * beta * sigmoid(z) * sigmoid(-z)",
        "losses = weights * softplus(-z)\n\n    grad_policy_logps = -signs * weights * beta * sigmoid(-z)",
        "-log σ in place of 1 - σ, taken for a numerically safer form. It is another loss.",
        "ContextualAI/HALOs#24",
    ),
    Bug(
        "kto-weights-ignored",
        ("kto",),
        "offline/kto.py",
        "weights = where(desirable, constant_like(rewards, desirable_weight), undesirable_weight)",
        "weights = constant_like(rewards, 1.0)",
        "Liger's KTO kernel has no weights.",
        "linkedin/Liger-Kernel#592",
    ),
    Bug(
        "robust-for-conservative",
        ("cdpo",),
        "offline/cdpo.py",
        "    losses = -(1",
        "    from .robust_dpo import robust_dpo\n\n"
        "    return robust_dpo.formula(\n"
        "        policy_chosen_logps,\n        policy_rejected_logps,\n"
        "        reference_chosen_logps,\n        reference_rejected_logps,\n"
        "        beta,\n        label_smoothing,\n    )\n"
        "    losses = -(1",
        "Under label_smoothing TRL today means the robust loss, the DPO repository the conservative one.",
        "huggingface/trl#3906",
    ),
    Bug(
        "robust-without-debiasing",
        ("robust_dpo",),
        "offline/robust_dpo.py",
        "unflipped = 1 - 2 * label_smoothing",
        "unflipped = 1.0",
        "The same weights without the division by 1 - 2ε: no longer unbiased.",
        "arXiv:2403.00409v2",
    ),
    Bug(
        "hinge-without-reference",
        ("rso_hinge",),
        "offline/rso.py",
        "h = chosen_rewards - rejected_rewards",
        "h = beta * (policy_chosen_logps - policy_rejected_logps)",
        "SLiC's hinge, as in HALOs, sees the policy alone; RSO's, as in TRL, log-ratios.",
        "https://github.com/ContextualAI/HALOs/blob/main/train/trainers.py",
    ),
    Bug(
        "reference-free",
        ("dpo",),
        "offline/dpo.py",
        "h = chosen_rewards - rejected_rewards",
        "h = beta * (policy_chosen_logps - policy_rejected_logps)",
        "reference_free = True, in the DPO repository and once in TRL: the reference's log-ratio replaced by 0.",
        "https://github.com/eric-mitchell/direct-preference-optimization",
    ),
    Bug(
        "population-deviation",
        ("advantages_grpo",),
        "online/advantages.py",
        "keepdims=True) / (rewards.shape[1] - 1)",
        "keepdims=True) / rewards.shape[1]",
        "numpy.std divides by G, torch.std by G - 1.",
        "arXiv:2402.03300v3",
    ),
    Bug(
        "epsilon-of-another-library",
        ("advantages_grpo",),
        "online/advantages.py",
        "variance**0.5 + 1e-4",
        "variance**0.5 + 1e-6",
        "NeMo-RL adds 1e-6 to the deviation, TRL and torchtune 1e-4.",
        "https://github.com/NVIDIA-NeMo/RL",
    ),
]

BUGS = [*FORMULAS, *SEQUENCES, *UNPAIRED, *ODDS, *ON_POLICY, *AVERAGES, *CONVENTIONS]

CONTROLS = [
    Bug(
        "prompt-tokens-cancel",
        ("dpo",),
        "offline/dpo.py",
        "h = chosen_rewards - rejected_rewards",
        "prompt = reference_chosen_logps + reference_rejected_logps\n"
        "    chosen = (policy_chosen_logps + prompt) - (reference_chosen_logps + prompt)\n"
        "    h = beta * (chosen - ((policy_rejected_logps + prompt) - (reference_rejected_logps + prompt)))",
        "Prompt tokens on both sides of a pair and of the reference cancel in DPO, exactly but for rounding.",
        "OpenRLHF/OpenRLHF#235",
    ),
    Bug(
        "softplus-for-log-sigmoid",
        ("dpo",),
        "offline/dpo.py",
        "losses = -log_sigmoid(h)",
        "losses = softplus(-h)",
        "-log σ(h) = log(1 + e^-h).",
        "the definition",
    ),
    Bug(
        "pairs-before-references",
        ("dpo",),
        "offline/dpo.py",
        "h = chosen_rewards - rejected_rewards",
        "h = beta * ((policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps))",
        "The log-ratio of the policy minus that of the reference: the reference implementation's order.",
        "https://github.com/eric-mitchell/direct-preference-optimization",
    ),
    Bug(
        "textbook-sigmoid",
        ("kto",),
        "offline/kto.py",
        "losses = weights * sigmoid(-z)",
        "losses = weights / (1 + exp(z))",
        "1/(1 + e^z): where e^z overflows the quotient is 0, and the exact value below the smallest normal number.",
        "the definition",
    ),
    Bug(
        "mean-as-sum-over-count",
        ("kto_reference_point",),
        "offline/kto.py",
        "mean_over(policy_mismatched_logps - reference_mismatched_logps)",
        "sum_over(policy_mismatched_logps - reference_mismatched_logps) / len(policy_mismatched_logps)",
        "A mean is a sum divided by a count.",
        "the definition",
    ),
    Bug(
        "difference-of-means",
        ("kto_reference_point",),
        "offline/kto.py",
        "mean_over(policy_mismatched_logps - reference_mismatched_logps)",
        "mean_over(policy_mismatched_logps) - mean_over(reference_mismatched_logps)",
        "The difference of two means; it cancels, within what the condition number allows.",
        "the definition",
    ),
    Bug(
        "tokens-summed-backwards",
        ("sequence_logps",),
        "logprobs.py",
        "targets), 0.0), axis=1)\n\n    slopes",
        "targets), 0.0)[:, ::-1], axis=1)\n\n    slopes",
        "A sum in another order.",
        "the definition",
    ),
    Bug(
        "softmax-as-exponential",
        ("sequence_logps",),
        "logprobs.py",
        "slopes = one_hot_like(logits_that_count, targets) - softmax(logits_that_count)",
        "slopes = one_hot_like(logits_that_count, targets) - exp(log_softmax(logits_that_count))",
        "Probabilities as exponentials of log-probabilities, as most libraries compute them.",
        "the definition",
    ),
    Bug(
        "two-positions-a-chunk",
        ("linear_sequence_logps",),
        "logprobs.py",
        "CHUNK = 1024",
        "CHUNK = 2",
        "Any number of positions at a time.",
        "the definition",
    ),
    Bug(
        "recursion-regrouped",
        ("gae",),
        "online/gae.py",
        "advantage = delta + discount * trace_decay * advantage_after",
        "future = value_after + trace_decay * advantage_after\n"
        "        advantage = rewards[:, t] - values[:, t] + discount * future",
        "r - V + γ (V' + λ A').",
        "the definition",
    ),
    Bug(
        "minimum-as-minimum",
        ("ppo_policy", "grpo"),
        "online/ppo.py",
        "token_losses = -where(clipped, bounded, surrogate)",
        "token_losses = -np.minimum(bounded, surrogate)",
        "The minimum of the two branches, as it is written.",
        "arXiv:1707.06347v2 eq. 7",
    ),
    Bug(
        "leave-one-out-literally",
        ("advantages_rloo",),
        "online/advantages.py",
        "return GroupAdvantages(_centred(rewards) * (responses / (responses - 1)))",
        "others = sum_over(rewards, axis=1, keepdims=True) - rewards\n"
        "    return GroupAdvantages(where(_centred(rewards) == 0, 0.0, rewards - others / (responses - 1)))",
        "Each reward minus the mean of the others, as it is written.",
        "arXiv:2402.14740v2 eq. 8",
    ),
    Bug(
        "library-deviation",
        ("advantages_grpo",),
        "online/advantages.py",
        "return GroupAdvantages(centred / (variance**0.5 + 1e-4))",
        "return GroupAdvantages(centred / (np.std(rewards, axis=1, keepdims=True, ddof=1) + 1e-4))",
        "NumPy's standard deviation with G - 1 in the denominator.",
        "https://numpy.org/doc/stable/reference/generated/numpy.std.html",
    ),
    Bug(
        "quotient-of-sums",
        ("token_mean", "sequence_mean", "constant_mean"),
        "online/aggregation.py",
        "sum_over(where(mask, token_losses, 0.0) * weights)",
        "sum_over(sum_over(where(mask, token_losses, 0.0) / normalizers, axis=1))",
        "Rows first, and division before the sum in place of weights.",
        "the definition",
    ),
]
