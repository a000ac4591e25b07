"""Flags of the frozen vectors: the bugs that each is there to catch. A star marks the id of a bug in the museum.

A vector has a flag if its operation and its regime are the flag's; a word in capitals is a family of operations.
"""

from typing import NamedTuple

from verify.contract import CONTRACTS

FAMILIES = {
    "ALL": " ".join(CONTRACTS),
    "LOGISTIC": "dpo cdpo robust_dpo simpo bradley_terry diffusion_dpo",
    "PAIRS": "dpo cdpo robust_dpo ipo ipo_length_normalized rso_hinge",
    "RANKINGS": "plackett_luce plackett_luce_dpo",
    "BANDITS": "optimal_policy kl_regularized_objective",
    "LENGTHS": "ipo_length_normalized simpo orpo",
    "SEQUENCES": "sequence_logps linear_sequence_logps",
    "GROUPS": "advantages_grpo advantages_dr_grpo advantages_rloo",
    "MEANS": "sequence_mean token_mean constant_mean",
    "TOKENS": "ppo_policy grpo",
}

TABLE = """
*fused-dpo-sign-flip: reward is punished | ordinary, one example | LOGISTIC PAIRS RANKINGS orpo kto sppo
swapped-pair: chosen and rejected change places | ordinary, one example | LOGISTIC PAIRS orpo
missing-beta: the temperature is left out | ordinary | PAIRS BANDITS RANKINGS kto simpo diffusion_dpo grpo rejection_acceptance
reference-ignored: log-ratios are log-probabilities | ordinary, step 0 | PAIRS BANDITS kto sppo kl_estimates grpo diffusion_dpo
*precomputed-ref-ignored: the policy is its own reference | ordinary | PAIRS kto sppo kl_estimates plackett_luce_dpo
*sum-vs-mean-loss-reduction: gradients are those of the mean | ordinary | LOGISTIC PAIRS RANKINGS orpo kto sppo
loss-vanishes: log(1 + e^-h) as the log of a number already rounded to 1 | saturated | LOGISTIC
overflow: an exponential overflows on its way to a number | saturated | LOGISTIC RANKINGS optimal_policy sequence_logps
unshifted-exponentials: the largest score is not taken away first | cancelling | RANKINGS BANDITS sequence_logps bradley_terry
*kl-in-bf16: differences drown in an intermediate of few bits | tiny, cancelling | ALL
nan-at-infinity: 0 times infinity, or infinity minus infinity, where there is a limit | minus infinity | ALL
zero-times-infinity: a weight of 0 on an infinite term is NaN | zero weight | cdpo robust_dpo orpo grpo
*falsy-zero-score: a weight of 0 is taken for one not given | zero weight | ALL
squeezed-batch: a batch of one loses its axis | one example | ALL
empty-batch: a batch of none fails | empty | ALL
margin-ignored: the margin, or gamma, is left out | ordinary, step 0 | bradley_terry simpo
*cdpo-smoothing-dropped-in-refactor: label_smoothing has no effect | ordinary | cdpo robust_dpo
robust-as-conservative: the two uses of label_smoothing are taken for one another | ordinary, step 0 | cdpo robust_dpo
*ipo-target-from-wrong-loss-type: another loss than asked for | ordinary | ipo ipo_length_normalized rso_hinge
target-off: the target is not 1/(2 beta) | step 0 | ipo ipo_length_normalized
slope-at-the-kink: a slope where the hinge is exactly tied | ties | rso_hinge
*ipo-sum-instead-of-mean: sums over tokens where means are due | ordinary | ipo_length_normalized
*length-counted-by-sign-of-logp: every length is 1, so means are sums | ordinary | LENGTHS
*double-length-normalisation-of-sft-term: a mean is divided by the length again | ordinary | LENGTHS
lengths-swapped: each response is divided by the other's length | ordinary, one example | LENGTHS
gamma-as-ratio: gamma is multiplied by beta | ordinary, step 0 | simpo
*orpo-log-one-minus-exp: log(1 - e^a) loses all digits for a near 0 | tiny | orpo
printed-gradient: the paper's equations 8 to 10, whose sign is the opposite | ordinary | orpo
weights-swapped: desirable and undesirable weights change places | ordinary | kto
log-of-value: -log sigma where the value function is 1 - sigma | ordinary, step 0 | kto
reference-point-ignored: rewards are not compared with the reference point | ordinary, step 0 | kto
unclamped: a negative estimate of a divergence | ordinary, one example | kto_reference_point
*sppo-beta-inside-square: eta scales the log-ratio instead of the target | ordinary | sppo
win-rate-not-centred: eta P in place of eta (P - 1/2) | ordinary, ends | sppo
order-reversed: the ranking is read worst first | ordinary | RANKINGS
pairs-for-rankings: each neighbour is compared with the next only | ordinary, equal rewards | RANKINGS
unnormalized: the partition function is left out | ordinary | optimal_policy
gradient-not-centred: the gradient lacks its baseline | ordinary, equal rewards | kl_regularized_objective
*mask-not-shifted: the token before, or after, is scored | ordinary, single token, long and ragged | SEQUENCES
*prompt-tokens-in-logp: tokens before the response are scored | ordinary, single token | SEQUENCES
*labels-padded-with-pad-id: what is after the response is scored | long and ragged | SEQUENCES
*dpo-average-logprob-default: means over tokens where sums are due | ordinary, long and ragged | SEQUENCES
*fused-grpo-argmax-tokens: the likeliest token is scored, not the one in the text | ordinary | SEQUENCES
*loss-mask-ignored-by-fused-kernel: what is masked reaches the answer: 0 times infinity is NaN | polluted | ALL
*nll-counts-padding: masked positions count | ordinary, long and ragged, empty row | MEANS TOKENS ppo_value gae
*empty-completion-mean: a row without tokens divides by 0 | empty row | token_mean constant_mean
kl-direction: the divergence of the reference from the policy | ordinary | kl_estimates grpo kl_regularized_objective
*gae-bootstraps-from-masked-values: masked values enter the recursion | ordinary, single token, long and ragged | gae
value-after-the-end: a value is looked up behind the last step | ordinary, single token | gae
discount-and-trace-swapped: discount and trace_decay change places | ordinary | gae
clips-swapped: clip_low and clip_high change places | ordinary, long and ragged | TOKENS
clipped-on-both-sides: the ratio is clipped whichever way the advantage points | ordinary, saturated | TOKENS
*ratio-constant-no-policy-gradient: at ratio 1 the gradient is 0 | step 0 | TOKENS
zero-times-overflow: an advantage of 0 times a ratio that overflows is NaN | ties | TOKENS
tie-to-the-clipped: at a tie the gradient is the clipped branch's 0 | ties | ppo_value
population-std: G in place of G - 1 under the root | ordinary | advantages_grpo
epsilon-off: another constant than 1e-4 is added to the deviation | tiny | advantages_grpo
*std-scaling-condition-inverted: scaled where it should not be | ordinary | advantages_grpo advantages_dr_grpo
*whitening-adds-the-mean-back: advantages are not centred | ordinary, cancelling | GROUPS
baseline-includes-itself: the mean of all where that of the others is due | ordinary | advantages_rloo
noise-of-equal-rewards: a mean of equal numbers is not that number | equal rewards | GROUPS
*length-bias-sequence-mean: one of the three means is taken for another | ordinary, long and ragged | MEANS
start-of-penalty: the penalty starts at another length | ordinary, ties, ends | overlong_penalty
bound-ignored: rewards are not taken relative to reward_max | ordinary, cancelling | rejection_acceptance
"""


class Note(NamedTuple):
    """A flag: the museum's id of its bug or "", what goes wrong, at which operations, and in which regimes it shows."""

    flag: str
    bug: str
    effect: str
    operations: tuple[str, ...]
    regimes: tuple[str, ...]


def _note(line: str) -> Note:
    head, regimes, operations = line.split(" | ")
    name, effect = head.split(": ", 1)
    flag = name.removeprefix("*")
    names = " ".join(FAMILIES.get(word, word) for word in operations.split())
    return Note(flag, flag if flag != name else "", effect, tuple(names.split()), tuple(regimes.split(", ")))


NOTES = [_note(line) for line in TABLE.strip().splitlines()]


def notes(operation: str) -> list[Note]:
    return [note for note in NOTES if operation in note.operations]
