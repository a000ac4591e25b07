"""What the regimes of the frozen vectors are for: a comment each, and flags that name the bugs they catch.

A flag is the id of a bug in the museum where one lives at the operation, or a plain word.
"""

from typing import NamedTuple

COMMENTS = {
    "binary rewards": "Rewards of 0 and 1; one group agrees.",
    "cancelling": "Large numbers that differ by little.",
    "empty": "No examples: empty answers.",
    "empty row": "A row in which nothing counts.",
    "ends": "At the ends of legal ranges.",
    "equal rewards": "Scores that do not differ.",
    "long and ragged": "Rows of very different lengths.",
    "minus infinity": "Impossible events: the answer is the limit.",
    "negative": "A mean below 0, which counts as 0.",
    "odd group": "Five responses a group.",
    "one example": "A batch of one.",
    "one response": "A single response, which is certain.",
    "ordinary": "Middling numbers, all arguments different from each other.",
    "polluted": "Junk and impossible tokens wherever the mask is false.",
    "saturated": "Margins of both signs beyond which exponentials overflow or vanish.",
    "single token": "One token counts in every row.",
    "sparse reward": "A reward at one step of each row only.",
    "step 0": "The policy is its reference: nothing has been learned yet.",
    "ties": "Comparisons that are exactly tied, differences that are exactly 0.",
    "tiny": "Differences of 1e-12 to 1e-5.",
    "two responses": "The smallest group.",
    "zero weight": "Weights of 0, also on what is infinite.",
}


class Note(NamedTuple):
    """A flag: what goes wrong, at which operations, and in which regimes it shows."""

    flag: str
    bug: str  # its id in the museum, "" if it is no one's in particular
    effect: str
    operations: str  # separated by spaces
    regimes: tuple[str, ...]


LOGISTIC = "dpo cdpo robust_dpo simpo bradley_terry diffusion_dpo"
PAIRS = "dpo cdpo robust_dpo ipo ipo_length_normalized rso_hinge"
SINGLES = "kto sppo kl_estimates"
RANKINGS = "plackett_luce plackett_luce_dpo"
BANDITS = "optimal_policy kl_regularized_objective"
SEQUENCES = "sequence_logps linear_sequence_logps"
GROUPS = "advantages_grpo advantages_dr_grpo advantages_rloo"
MEANS = "sequence_mean token_mean constant_mean"
TOKENS = "ppo_policy grpo"
MASKED = f"{SEQUENCES} {MEANS} {TOKENS} gae ppo_value"
LOGPS = f"{PAIRS} {SINGLES} {TOKENS} simpo orpo plackett_luce_dpo {BANDITS}"
ORDINARY = ("ordinary",)

NOTES = [
    Note("sign-flip", "fused-dpo-sign-flip", "what should be rewarded is punished", f"{LOGISTIC} {PAIRS} {RANKINGS} orpo kto sppo", ("ordinary", "one example")),
    Note("swapped-pair", "", "chosen and rejected change places", f"{PAIRS} simpo orpo bradley_terry diffusion_dpo", ("ordinary", "one example")),
    Note("missing-beta", "", "the temperature is left out", f"{PAIRS} {BANDITS} kto simpo diffusion_dpo plackett_luce_dpo grpo rejection_acceptance", ORDINARY),
    Note("reference-ignored", "", "log-ratios are log-probabilities", f"{PAIRS} {SINGLES} {BANDITS} plackett_luce_dpo grpo diffusion_dpo kto_reference_point", ("ordinary", "step 0")),
    Note("policy-as-reference", "precomputed-ref-ignored", "the policy is its own reference: every margin is 0", f"{PAIRS} kto sppo kl_estimates plackett_luce_dpo", ORDINARY),
    Note("sum-vs-mean-loss-reduction", "sum-vs-mean-loss-reduction", "gradients are those of the mean, not of the sum", f"{LOGISTIC} {PAIRS} {RANKINGS} orpo kto sppo", ORDINARY),
    Note("loss-vanishes", "", "log(1 + e^-h) as the log of a number already rounded to 1", f"{LOGISTIC} plackett_luce", ("saturated",)),
    Note("overflow", "", "an exponential overflows on its way to an ordinary number", f"{LOGISTIC} {RANKINGS} {BANDITS} {SEQUENCES} orpo kto", ("saturated",)),
    Note("ratio-of-exponentials", "", "probabilities are formed, which underflow, before they are compared", f"{PAIRS} {SINGLES} {TOKENS} simpo kto_reference_point", ("cancelling",)),
    Note("unshifted-exponentials", "", "exponentials of scores without taking the largest away", f"plackett_luce {BANDITS} sequence_logps bradley_terry", ("cancelling",)),
    Note("half-precision", "kl-in-bf16", "differences of log-probabilities drown in an intermediate of few bits", LOGPS, ("tiny", "cancelling")),
    Note("nan-at-infinity", "", "0 times infinity, or infinity minus infinity, where there is a limit", LOGPS + " sequence_logps kto_reference_point", ("minus infinity", "zero weight")),
    Note("falsy-zero", "falsy-zero-score", "a weight of 0 is taken for one not given", "cdpo robust_dpo kto orpo gae grpo", ("zero weight",)),
    Note("squeezed-batch", "", "a batch of one loses its axis", f"{LOGPS} {LOGISTIC} {MASKED} {GROUPS} {RANKINGS} kto_reference_point overlong_penalty rejection_acceptance", ("one example",)),
    Note("empty-batch", "", "a batch of none fails", f"{LOGPS} {LOGISTIC} overlong_penalty rejection_acceptance", ("empty",)),
    Note("margin-ignored", "", "the margin, or gamma, is left out", "bradley_terry simpo", ("ordinary", "step 0")),
    Note("smoothing-dropped", "cdpo-smoothing-dropped-in-refactor", "label_smoothing has no effect", "cdpo robust_dpo", ORDINARY),
    Note("robust-as-conservative", "", "the two uses of label_smoothing are taken for one another", "cdpo robust_dpo", ("ordinary", "step 0")),
    Note("loss-type-ignored", "ipo-target-from-wrong-loss-type", "another loss is computed than the one asked for", "ipo ipo_length_normalized rso_hinge", ORDINARY),
    Note("target-off", "", "the target is not 1/(2 beta)", "ipo ipo_length_normalized", ("step 0", "ties")),
    Note("slope-at-the-kink", "", "a slope where the hinge is exactly tied", "rso_hinge", ("ties",)),
    Note("ipo-sum-instead-of-mean", "ipo-sum-instead-of-mean", "sums over tokens where means are due", "ipo_length_normalized", ORDINARY),
    Note("length-counted-by-sign-of-logp", "length-counted-by-sign-of-logp", "every length is 1, so means are sums", "ipo_length_normalized simpo orpo", ORDINARY),
    Note("double-length-normalisation", "double-length-normalisation-of-sft-term", "a mean is divided by the length again", "ipo_length_normalized simpo orpo", ORDINARY),
    Note("lengths-swapped", "", "each response is divided by the other's length", "ipo_length_normalized simpo orpo", ("ordinary", "one example")),
    Note("gamma-as-ratio", "", "gamma is multiplied by beta", "simpo", ("ordinary", "step 0")),
    Note("orpo-log-one-minus-exp", "orpo-log-one-minus-exp", "log(1 - e^a) loses all digits for a near 0", "orpo", ("tiny",)),
    Note("printed-gradient", "", "the paper's equations 8 to 10, whose sign is the opposite", "orpo", ORDINARY),
    Note("odds-of-sums", "", "odds of whole responses instead of tokens", "orpo", ORDINARY),
    Note("weights-swapped", "", "desirable and undesirable weights change places", "kto", ORDINARY),
    Note("log-of-value", "", "-log sigma where the value function is 1 - sigma", "kto", ("ordinary", "step 0")),
    Note("reference-point-ignored", "", "rewards are not compared with the reference point", "kto", ("ordinary", "step 0", "ties")),
    Note("unclamped", "", "a negative estimate of a divergence", "kto_reference_point", ("negative",)),
    Note("clamped-before-the-mean", "", "each log-ratio is cut at 0, not their mean", "kto_reference_point", ("ties",)),
    Note("eta-inside-square", "sppo-beta-inside-square", "eta scales the log-ratio instead of the target", "sppo", ORDINARY),
    Note("win-rate-not-centred", "", "eta P in place of eta (P - 1/2)", "sppo", ("ordinary", "ties", "ends")),
    Note("half-missing", "", "beta in place of beta/2", "diffusion_dpo", ORDINARY),
    Note("order-reversed", "", "the ranking is read worst first", RANKINGS, ORDINARY),
    Note("pairs-for-rankings", "", "each neighbour is compared with the next only", RANKINGS, ("ordinary", "equal rewards")),
    Note("unnormalized", "", "the partition function is left out", "optimal_policy", ORDINARY),
    Note("gradient-not-centred", "", "the gradient lacks its baseline", "kl_regularized_objective", ("ordinary", "equal rewards")),
    Note("mask-not-shifted", "mask-not-shifted", "the token before, or after, each response token is scored", SEQUENCES, ("ordinary", "single token", "long and ragged")),
    Note("prompt-tokens-in-logp", "prompt-tokens-in-logp", "tokens before the response are scored", SEQUENCES, ("ordinary", "single token")),
    Note("labels-padded-with-pad-id", "labels-padded-with-pad-id", "what is after the response is scored", SEQUENCES, ("long and ragged",)),
    Note("average-logprob", "dpo-average-logprob-default", "means over tokens where sums are due", SEQUENCES, ("ordinary", "long and ragged")),
    Note("argmax-tokens", "fused-grpo-argmax-tokens", "the likeliest token is scored, not the one in the text", SEQUENCES, ORDINARY),
    Note("masked-leaks", "loss-mask-ignored-by-fused-kernel", "what is masked reaches the answer: 0 times infinity is NaN", MASKED, ("polluted",)),
    Note("mask-dropped", "nll-counts-padding", "masked positions count", f"{MEANS} {TOKENS} ppo_value", ("ordinary", "long and ragged")),
    Note("empty-row-mean", "empty-completion-mean", "a row without tokens divides by 0", f"{TOKENS} ppo_value gae token_mean constant_mean", ("empty row",)),
    Note("kl-direction", "", "the divergence of the reference from the policy", "kl_estimates grpo kl_regularized_objective", ORDINARY),
    Note("gae-bootstraps-from-masked-values", "gae-bootstraps-from-masked-values", "masked values enter the recursion", "gae", ("ordinary", "single token", "long and ragged")),
    Note("value-after-the-end", "", "a value is looked up behind the last step", "gae", ("ordinary", "single token")),
    Note("trace-without-discount", "", "the trace decays by lambda alone", "gae", ORDINARY),
    Note("discount-and-trace-swapped", "", "discount and trace_decay change places", "gae", ("ordinary", "sparse reward")),
    Note("clips-swapped", "", "clip_low and clip_high change places", TOKENS, ("ordinary", "long and ragged")),
    Note("clipped-on-both-sides", "", "the ratio is clipped whichever way the advantage points", TOKENS, ("ordinary", "saturated")),
    Note("ratio-constant-no-policy-gradient", "ratio-constant-no-policy-gradient", "at ratio 1 the gradient is 0", TOKENS, ("step 0",)),
    Note("zero-times-overflow", "", "an advantage of 0 times a ratio that overflows is NaN", TOKENS, ("ties",)),
    Note("smaller-of-the-two", "", "the smaller of the two errors in place of the larger", "ppo_value", ORDINARY),
    Note("tie-to-the-clipped", "", "at a tie the gradient is the clipped branch's 0", "ppo_value", ("ties",)),
    Note("population-std", "", "G in place of G - 1 under the root", "advantages_grpo", ("ordinary", "two responses", "odd group")),
    Note("epsilon-off", "", "another constant than 1e-4 is added to the deviation", "advantages_grpo", ("tiny",)),
    Note("std-scaling-condition-inverted", "std-scaling-condition-inverted", "scaled where it should not be, or the other way round", "advantages_grpo advantages_dr_grpo", ORDINARY),
    Note("whitening-adds-the-mean-back", "whitening-adds-the-mean-back", "advantages are not centred", GROUPS, ("ordinary", "binary rewards", "cancelling")),
    Note("baseline-includes-itself", "", "the mean of all where that of the others is due", "advantages_rloo", ("ordinary", "two responses", "odd group")),
    Note("noise-of-equal-rewards", "", "a mean of equal numbers is not that number, and 1e-4 does not hide it", GROUPS, ("equal rewards",)),
    Note("length-bias", "length-bias-sequence-mean", "one of the three means is taken for another", MEANS, ("ordinary", "long and ragged")),
    Note("penalty-unbounded", "", "the penalty goes below -1, or above 0", "overlong_penalty", ORDINARY),
    Note("start-of-penalty", "", "the penalty starts at another length", "overlong_penalty", ("ordinary", "ties", "ends")),
    Note("bound-ignored", "", "rewards are not taken relative to reward_max", "rejection_acceptance", ("ordinary", "cancelling")),
]  # fmt: skip


def notes(operation: str) -> list[Note]:
    return [note for note in NOTES if operation in note.operations.split()]
