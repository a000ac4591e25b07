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
    "half a token": "A stretch shorter than a token.",
    "long and ragged": "Rows of very different lengths.",
    "minus infinity": "Impossible events: the answer is the limit.",
    "negative": "A mean below 0, which counts as 0.",
    "odd group": "Five responses a group.",
    "one example": "A batch of one.",
    "one position": "A single step in every row.",
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
    """A flag: the museum's id of its bug or "", what goes wrong, at which operations, and in which regimes it shows."""

    flag: str
    bug: str
    effect: str
    operations: tuple[str, ...]
    regimes: tuple[str, ...]


FAMILIES = {
    "LOGISTIC": "dpo cdpo robust_dpo simpo bradley_terry diffusion_dpo",
    "PAIRS": "dpo cdpo robust_dpo ipo ipo_length_normalized rso_hinge",
    "SINGLES": "kto sppo kl_estimates",
    "RANKINGS": "plackett_luce plackett_luce_dpo",
    "BANDITS": "optimal_policy kl_regularized_objective",
    "SEQUENCES": "sequence_logps linear_sequence_logps",
    "GROUPS": "advantages_grpo advantages_dr_grpo advantages_rloo",
    "MEANS": "sequence_mean token_mean constant_mean",
    "TOKENS": "ppo_policy grpo",
    "MASKED": "sequence_logps linear_sequence_logps sequence_mean token_mean constant_mean ppo_policy grpo gae ppo_value",
    "LOGPS": "dpo cdpo robust_dpo ipo ipo_length_normalized rso_hinge kto sppo kl_estimates ppo_policy grpo simpo orpo "
    "plackett_luce_dpo optimal_policy kl_regularized_objective",
}

# FLAG: EFFECT [BUG OF THE MUSEUM]
#   REGIMES: OPERATIONS AND FAMILIES OF THEM
TABLE = """
sign-flip: what should be rewarded is punished [fused-dpo-sign-flip]
  ordinary, one example: LOGISTIC PAIRS RANKINGS orpo kto sppo
swapped-pair: chosen and rejected change places
  ordinary, one example: PAIRS simpo orpo bradley_terry diffusion_dpo
missing-beta: the temperature is left out
  ordinary: PAIRS BANDITS kto simpo diffusion_dpo plackett_luce_dpo grpo rejection_acceptance
reference-ignored: log-ratios are log-probabilities
  ordinary, step 0: PAIRS SINGLES BANDITS plackett_luce_dpo grpo diffusion_dpo
reference-not-subtracted: log-probabilities in place of log-ratios, so that 0 is always the larger
  ordinary: kto_reference_point
policy-as-reference: the policy is its own reference: every margin is 0 [precomputed-ref-ignored]
  ordinary: PAIRS kto sppo kl_estimates plackett_luce_dpo
sum-vs-mean-loss-reduction: gradients are those of the mean, not of the sum [sum-vs-mean-loss-reduction]
  ordinary: LOGISTIC PAIRS RANKINGS orpo kto sppo
loss-vanishes: log(1 + e^-h) as the log of a number already rounded to 1
  saturated: dpo simpo bradley_terry diffusion_dpo
overflow: an exponential overflows on its way to an ordinary number
  saturated: LOGISTIC RANKINGS optimal_policy sequence_logps
ratio-of-exponentials: probabilities are formed, which underflow, before they are compared
  cancelling: PAIRS SINGLES TOKENS simpo kto_reference_point
unshifted-exponentials: exponentials of scores without taking the largest away
  cancelling: plackett_luce BANDITS sequence_logps bradley_terry
half-precision: differences of log-probabilities drown in an intermediate of few bits [kl-in-bf16]
  tiny, cancelling: LOGPS
nan-at-infinity: 0 times infinity, or infinity minus infinity, where there is a limit
  minus infinity: LOGPS sequence_logps kto_reference_point
zero-times-infinity: a weight of 0 on an infinite term is NaN
  zero weight: cdpo robust_dpo orpo
falsy-zero: a weight of 0 is taken for one not given [falsy-zero-score]
  zero weight: cdpo robust_dpo kto orpo gae grpo
squeezed-batch: a batch of one loses its axis
  one example: LOGPS LOGISTIC MASKED GROUPS RANKINGS kto_reference_point overlong_penalty rejection_acceptance
empty-batch: a batch of none fails
  empty: LOGPS LOGISTIC overlong_penalty rejection_acceptance
margin-ignored: the margin, or gamma, is left out
  ordinary, step 0: bradley_terry simpo
smoothing-dropped: label_smoothing has no effect [cdpo-smoothing-dropped-in-refactor]
  ordinary: cdpo robust_dpo
robust-as-conservative: the two uses of label_smoothing are taken for one another
  ordinary, step 0: cdpo robust_dpo
loss-type-ignored: another loss is computed than the one asked for [ipo-target-from-wrong-loss-type]
  ordinary: ipo ipo_length_normalized rso_hinge
target-off: the target is not 1/(2 beta)
  step 0, ties: ipo ipo_length_normalized
slope-at-the-kink: a slope where the hinge is exactly tied
  ties: rso_hinge
ipo-sum-instead-of-mean: sums over tokens where means are due [ipo-sum-instead-of-mean]
  ordinary: ipo_length_normalized
length-counted-by-sign-of-logp: every length is 1, so means are sums [length-counted-by-sign-of-logp]
  ordinary: ipo_length_normalized simpo orpo
double-length-normalisation: a mean is divided by the length again [double-length-normalisation-of-sft-term]
  ordinary: ipo_length_normalized simpo orpo
lengths-swapped: each response is divided by the other's length
  ordinary, one example: ipo_length_normalized simpo orpo
gamma-as-ratio: gamma is multiplied by beta
  ordinary, step 0: simpo
orpo-log-one-minus-exp: log(1 - e^a) loses all digits for a near 0 [orpo-log-one-minus-exp]
  tiny: orpo
printed-gradient: the paper's equations 8 to 10, whose sign is the opposite
  ordinary: orpo
odds-of-sums: odds of whole responses instead of tokens
  ordinary: orpo
weights-swapped: desirable and undesirable weights change places
  ordinary: kto
log-of-value: -log sigma where the value function is 1 - sigma
  ordinary, step 0: kto
reference-point-ignored: rewards are not compared with the reference point
  ordinary, step 0, ties: kto
unclamped: a negative estimate of a divergence
  negative: kto_reference_point
clamped-before-the-mean: each log-ratio is cut at 0, not their mean
  ties: kto_reference_point
eta-inside-square: eta scales the log-ratio instead of the target [sppo-beta-inside-square]
  ordinary: sppo
win-rate-not-centred: eta P in place of eta (P - 1/2)
  ordinary, ties, ends: sppo
half-missing: beta in place of beta/2
  ordinary: diffusion_dpo
order-reversed: the ranking is read worst first
  ordinary: RANKINGS
pairs-for-rankings: each neighbour is compared with the next only
  ordinary, equal rewards: RANKINGS
unnormalized: the partition function is left out
  ordinary: optimal_policy
gradient-not-centred: the gradient lacks its baseline
  ordinary, equal rewards: kl_regularized_objective
mask-not-shifted: the token before, or after, each response token is scored [mask-not-shifted]
  ordinary, single token, long and ragged: SEQUENCES
prompt-tokens-in-logp: tokens before the response are scored [prompt-tokens-in-logp]
  ordinary, single token: SEQUENCES
labels-padded-with-pad-id: what is after the response is scored [labels-padded-with-pad-id]
  long and ragged: SEQUENCES
average-logprob: means over tokens where sums are due [dpo-average-logprob-default]
  ordinary, long and ragged: SEQUENCES
argmax-tokens: the likeliest token is scored, not the one in the text [fused-grpo-argmax-tokens]
  ordinary: SEQUENCES
masked-leaks: what is masked reaches the answer: 0 times infinity is NaN [loss-mask-ignored-by-fused-kernel]
  polluted: MASKED
mask-dropped: masked positions count [nll-counts-padding]
  ordinary, long and ragged, empty row: MEANS TOKENS ppo_value gae
empty-row-mean: a row without tokens divides by 0 [empty-completion-mean]
  empty row: token_mean constant_mean
kl-direction: the divergence of the reference from the policy
  ordinary: kl_estimates grpo kl_regularized_objective
gae-bootstraps-from-masked-values: masked values enter the recursion [gae-bootstraps-from-masked-values]
  ordinary, single token, long and ragged: gae
value-after-the-end: a value is looked up behind the last step
  ordinary, single token, one position: gae
trace-without-discount: the trace decays by lambda alone
  ordinary: gae
discount-and-trace-swapped: discount and trace_decay change places
  ordinary, sparse reward: gae
clips-swapped: clip_low and clip_high change places
  ordinary, long and ragged: TOKENS
clipped-on-both-sides: the ratio is clipped whichever way the advantage points
  ordinary, saturated: TOKENS
ratio-constant-no-policy-gradient: at ratio 1 the gradient is 0 [ratio-constant-no-policy-gradient]
  step 0: TOKENS
zero-times-overflow: an advantage of 0 times a ratio that overflows is NaN
  ties: TOKENS
smaller-of-the-two: the smaller of the two errors in place of the larger
  ordinary: ppo_value
tie-to-the-clipped: at a tie the gradient is the clipped branch's 0
  ties: ppo_value
population-std: G in place of G - 1 under the root
  ordinary, two responses, odd group: advantages_grpo
epsilon-off: another constant than 1e-4 is added to the deviation
  tiny: advantages_grpo
std-scaling-condition-inverted: scaled where it should not be, or the other way round [std-scaling-condition-inverted]
  ordinary: advantages_grpo advantages_dr_grpo
whitening-adds-the-mean-back: advantages are not centred [whitening-adds-the-mean-back]
  ordinary, binary rewards, cancelling: GROUPS
baseline-includes-itself: the mean of all where that of the others is due
  ordinary, two responses, odd group: advantages_rloo
noise-of-equal-rewards: a mean of equal numbers is not that number, and 1e-4 does not hide it
  equal rewards: GROUPS
length-bias: one of the three means is taken for another [length-bias-sequence-mean]
  ordinary, long and ragged: MEANS
penalty-unbounded: the penalty goes below -1, or above 0
  ordinary: overlong_penalty
start-of-penalty: the penalty starts at another length
  ordinary, ties, ends, half a token: overlong_penalty
bound-ignored: rewards are not taken relative to reward_max
  ordinary, cancelling: rejection_acceptance
"""


def _note(head: str, places: str) -> Note:
    flag, effect = head.split(": ", 1)
    effect, _, bug = effect.removesuffix("]").partition(" [")
    regimes, operations = places.strip().split(": ")
    names = [name for word in operations.split() for name in FAMILIES.get(word, word).split()]
    return Note(flag, bug, effect, tuple(names), tuple(regimes.split(", ")))


_lines = TABLE.strip().splitlines()
NOTES = [_note(head, places) for head, places in zip(_lines[::2], _lines[1::2], strict=True)]


def notes(operation: str) -> list[Note]:
    return [note for note in NOTES if operation in note.operations]
