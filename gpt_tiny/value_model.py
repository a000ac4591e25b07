"""A GPT with one number for each state in place of logits: a reward model, read at a response's last token, or PPO's critic.

    score  = hidden · score.weight                        [1, D], which starts at 0: at first all texts are worth the same
    reward = score at the last token of prompt and response         Ouyang et al. 2022, arXiv:2203.02155v1 section 3.5
    value  = score at the token before each response token

Its parameters are those of GPT2ForSequenceClassification with one label.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .model import GPT
from .model_by_hand import Config
from .packed import Group
from .rollouts import Rows, by_token, layout, states


class ValueModel(GPT):
    """Started as a GPT is, with a score of 0. ValueError as GPT raises it."""

    def __init__(self, config: Config, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__(config, dropout, seed)
        self.score = nn.Linear(config.width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def rewards(self, groups: Sequence[Group]) -> Tensor:
        """One number [N] for each response, in the tape; in units of reward, of which only differences say anything."""
        rows = layout(groups, self.score.weight.device)
        last = rows.attention_mask.sum(dim=1) - 1
        hidden = self.hidden(rows.tokens, rows.attention_mask)
        return self.score(hidden[torch.arange(len(last), device=last.device), last])[:, 0]

    def values(self, rows: Rows) -> Tensor:
        """What is expected of each state from which a response token is drawn [N, T], in the tape."""
        return by_token(self.score(states(self, rows))[:, 0], rows.mask)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """As a GPT's; without a score it stays as it is. ValueError for one of another shape than [1, D]."""
        self.config.check_scored(weights)
        self.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()}, strict=False)
