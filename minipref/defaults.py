"""Hyperparameters: what each operation takes when nothing is said, what people use, who, and where that is written.

    >>> from minipref.defaults import DEFAULTS
    >>> DEFAULTS["dpo", "beta"].value
    0.1

Where the operation has a default, the value is that; elsewhere it is the one to begin with. low and high bound what is in use,
not what is legal. A beta is in units of reward a nat, lengths are in tokens. What is computed from data is not here: `kto`'s
reference_point, `rejection_acceptance`'s reward_max.

Libraries: TRL 1.16.0; the others as they stood at OpenRLHF 3c3be623, verl b178a3cd, HALOs 4831988, Liger ead96b61,
SimPO 1b3e8f3, SPPO 5e61c4e, ORPO 208d2d6, DiffusionDPO 5233e75, understand-r1-zero dfca49d, lm-human-preferences cbfd210.
"""

from typing import NamedTuple


class Default(NamedTuple):
    operation: str
    argument: str
    value: float
    low: float
    high: float
    used_by: str
    source: str


_TABLE = """
bradley_terry | margin | 0 | 0 | 3 | TRL: none; Llama 2: by strength of preference, up to 1 or 3 | arXiv:2307.09288v2 table 27
optimal_policy | beta | 0.1 | 0.01 | 0.5 | as dpo, whose β it is | arXiv:2305.18290v3 eq. 4
kl_regularized_objective | beta | 0.1 | 0.01 | 0.2 | RLOO 0.03, 0.1; lm-human-preferences 0.01 to 0.2 | arXiv:2402.14740v2
dpo | beta | 0.1 | 0.01 | 0.5 | the paper (summaries 0.5), TRL, OpenRLHF, HALOs; SimPO 0.01 | arXiv:2305.18290v3 app. B
cdpo | beta | 0.1 | 0.01 | 0.5 | HALOs, OpenRLHF; otherwise as dpo | arXiv:2305.18290v3 app. B
cdpo | label_smoothing | 0.1 | 0 | 0.2 | its author; HALOs 0.2; OpenRLHF 0 | eric-mitchell/direct-preference-optimization README
robust_dpo | beta | 0.1 | 0.01 | 0.1 | TRL; the paper 0.01 | arXiv:2403.00409v2 app. B
robust_dpo | label_smoothing | 0.1 | 0 | 0.1 | the paper; TRL 0 unless set | arXiv:2403.00409v2 section 6
plackett_luce_dpo | beta | 0.1 | 0.01 | 0.5 | as dpo; the paper trains on pairs only | arXiv:2305.18290v3 app. A.3, B
ipo | beta | 0.1 | 0.1 | 1 | OpenRLHF; online AI feedback 1 | arXiv:2402.04792v2
ipo_length_normalized | beta | 0.1 | 0.01 | 0.9 | TRL, HALOs; scanned from 0.01 to 0.9 | huggingface/alignment-handbook
rso_hinge | beta | 0.1 | 0.005 | 0.5 | TRL; the paper 0.05, of 0.005 to 0.5 | arXiv:2309.06657v2 section 5.2
kto | beta | 0.1 | 0.1 | 0.1 | the paper, TRL, HALOs | arXiv:2402.01306v4 section 4
kto | desirable_weight | 1 | 1 | 1.5 | TRL, HALOs; the paper λ_D n_D / (λ_U n_U) from 1 to 3/2 | arXiv:2402.01306v4 eq. 9
kto | undesirable_weight | 1 | 0.67 | 1 | TRL, HALOs; the same rule | arXiv:2402.01306v4 eq. 9
orpo | odds_weight | 0.1 | 0.05 | 1 | the paper (0.1 to 0.25), TRL; its code 0.05, 0.1 and, unless set, 1 | arXiv:2403.07691v2
simpo | beta | 2 | 2 | 10 | the paper 2 and 2.5, its code later 10; HALOs 10; TRL has CPO's 0.1 | arXiv:2405.14734v3 table 8
simpo | gamma | 0.5 | 0.25 | 5 | TRL; the paper 0.3 to 1.6, its code later 3 and 5 | arXiv:2405.14734v3 table 8
sppo | eta | 1000 | 10 | 1000 | the paper and its code, as β = 1/η = 0.001; TRL's sppo_hard 10 | arXiv:2405.00675v4
diffusion_dpo | beta | 5000 | 2000 | 5000 | the paper (SDXL; SD1.5 2000), its code | arXiv:2311.12908v1 section 5.1
gae | discount | 1 | 0.99 | 1 | lm-human-preferences, verl, OpenRLHF; PPO's paper, HALOs 0.99 | openai/lm-human-preferences
gae | trace_decay | 0.95 | 0.95 | 1 | PPO's paper, lm-human-preferences, HALOs; verl, OpenRLHF 1 | arXiv:1707.06347v2 table 3
ppo_policy | clip_low | 0.2 | 0.1 | 0.5 | the paper, of 0.1 to 0.3; verl, OpenRLHF; HALOs 0.5 | arXiv:1707.06347v2 table 1
ppo_policy | clip_high | 0.2 | 0.1 | 0.5 | as clip_low; DAPO 0.28 | arXiv:1707.06347v2 table 1
ppo_value | clip | 0.2 | 0.2 | 0.5 | lm-human-preferences; verl, OpenRLHF 0.5 | openai/lm-human-preferences
grpo | clip_low | 0.2 | 0.2 | 0.2 | TRL, verl, Dr. GRPO, DAPO; GRPO's paper does not say | arXiv:2503.20783v2 table 6
grpo | clip_high | 0.2 | 0.2 | 0.28 | TRL, verl, Dr. GRPO; DAPO 0.28 | arXiv:2503.14476v2 section 4.1
grpo | beta | 0.04 | 0 | 0.04 | the paper, Liger; verl 0.001; TRL, DAPO, Dr. GRPO 0 | arXiv:2402.03300v3 section 4.2
constant_mean | max_length | 3000 | 512 | 3000 | Dr. GRPO; TRL 512 | arXiv:2503.20783v2 table 6
overlong_penalty | max_length | 20480 | 1024 | 20480 | DAPO; verl's examples from 1024 | arXiv:2503.14476v2 section 4.1
overlong_penalty | cache_length | 4096 | 128 | 4096 | DAPO; verl's examples from 128 | arXiv:2503.14476v2 section 4.1
rejection_acceptance | beta | 0.5 | 0.05 | 5 | the paper, of 0.05 to 5 | arXiv:2309.06657v2 section 5.2
"""


def _read(line: str) -> Default:
    operation, argument, value, low, high, used_by, source = line.split(" | ")
    return Default(operation, argument, float(value), float(low), float(high), used_by, source)


DEFAULTS = {(row.operation, row.argument): row for row in map(_read, _TABLE.strip().splitlines())}


def format_defaults() -> str:
    """A Markdown table, a line for each hyperparameter."""
    header = "| operation | argument | default | in use | who | source |", "|---|---|---|---|---|---|"
    return "\n".join([*header, *map(_format, DEFAULTS.values())])


def _format(row: Default) -> str:
    in_use = f"{row.low:g}" if row.low == row.high else f"{row.low:g} to {row.high:g}"
    return f"| `{row.operation}` | `{row.argument}` | {row.value:g} | {in_use} | {row.used_by} | {row.source} |"
