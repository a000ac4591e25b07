"""From text to a step of the tiny GPT, and from there to a sampler, nothing is lost, added or taken for something else.

Each claim fails on bugs that real libraries had. They are its false variants, under the ids of `verify/bugs/catalogue.txt`; the
one that shows least stands for all.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from gpt_tiny import lora
from gpt_tiny.data import Ids, Pair, Place, TokenizedCompletion, TokenizedPair, tokenize
from gpt_tiny.methods import METHODS, Objective
from gpt_tiny.model import GPT
from gpt_tiny.packed import Group, pack
from gpt_tiny.reference import cached, computed, scored
from gpt_tiny.rollouts import layout, quiet
from gpt_tiny.sampling import sample
from gpt_tiny.tokenizer import Tokenizer
from gpt_tiny.trainer import Optimization, Trainer
from gpt_tiny.value_model import ValueModel
from minipref import kl_shaped_rewards, sequence_logps
from minipref.autograd import token_logps
from toy.experiment import Measured, Reading
from verify.experiments.model import CONFIG, Rng, apart, gradients, ids, judged, model, objective, padded, pairs, weights
from verify.theory.claim import exact

claim = partial(exact, kind="pipeline")


def broken(true: float, bugs: Mapping[str, float]) -> Measured:
    """What is measured as it is, and with each bug by its id."""
    return Measured(Reading(true), Reading(float(np.min([*bugs.values()]))), dict(bugs))


def adapted(start: Mapping[str, np.ndarray], rng: Rng) -> GPT:
    """A model in the dtype of the weights, whose adapters have learned something."""
    made = loaded(start)
    lora.add_adapters(made, rank=2, alpha=8, seed=1)
    lora.load_adapters(made, {name: 0.3 * rng.standard_normal(x.shape) for name, x in lora.adapter_weights(made).items()})
    return made


def loaded(start: Mapping[str, np.ndarray], dropout: float = 0.0) -> GPT:
    made = GPT(CONFIG, dropout).to(torch.tensor(start["wte.weight"]).dtype)
    made.load_weights(start)
    return made


Layout = Callable[[str, str], tuple[Ids, Ids]]  # of a prompt and a response


@claim("tokens", (0, 0), "share of prompts and responses that do not read back as written")
def tokens(rng: Rng) -> Measured:
    """The ids of a row are those of its prompt, and behind them those of each response and one EOS: nothing stands before,
    between or after them, and nothing is missing, whatever the tokenizer would join across the boundary.
    False: They are, too, where both are encoded as one text and parted after as many tokens as the prompt has alone, where BOS
      and EOS are added to whatever is there, or the response is encoded without the prompt.
    Source: huggingface/trl#2054; huggingface/trl#1591; axolotl-ai-cloud/axolotl#1616; OpenRLHF 0537fa33
    """
    halves = itertools.product(("un", "re"), ("do", "tie", "load", "pack"))
    texts = [(f"Please {start}", f"{end} it.", f"{end} them.") for start, end in halves]
    tokenizer = Tokenizer.train([prompt + response for prompt, *both in texts for response in both], 300)
    encode, eos = tokenizer.encode, tokenizer.eos
    rows = [Pair(Place("drawn", n), *texts[n]) for n in rng.permutation(len(texts))[:5]]

    def wrong(sides: Iterable[tuple[Pair, Ids, Sequence[Ids]]]) -> float:
        read = [(row, [tokenizer.decode(x) for x in (prompt, *responses)]) for row, prompt, responses in sides]
        return float(np.mean([text != due for row, texts in read for text, due in zip(texts, written(row), strict=True)]))

    def written(row: Pair) -> list[str]:
        return [row.prompt, *(response + tokenizer.decode([eos]) for response in (row.chosen, row.rejected))]

    def laid(layout: Layout) -> float:
        both = [(row, [layout(row.prompt, response) for response in (row.chosen, row.rejected)]) for row in rows]
        return wrong((row, chosen[0], [chosen[1], rejected[1]]) for row, (chosen, rejected) in both)

    def parted(joint: Ids, at: int) -> tuple[Ids, Ids]:
        return joint[:at], joint[at:]

    marks: list[Layout] = [
        lambda prompt, response: (encode(prompt), [eos, *encode(response), eos]),
        lambda prompt, response: (encode(prompt), [*encode(response), eos, eos]),
        lambda prompt, response: parted([*encode(prompt), *encode(response), eos], 1 + len(encode(prompt))),
    ]
    bugs = {
        "bos-missing-or-doubled": min(map(laid, marks)),
        "joint-tokenisation-boundary-merge": laid(lambda p, response: parted([*encode(p + response), eos], len(encode(p)))),
        "response-tokenised-without-prompt": laid(lambda prompt, response: ([], [*encode(response)[:-1], eos])),
    }
    made = [row for row in tokenize(rows, encode, eos, 64).rows if isinstance(row, TokenizedPair)]
    return broken(wrong((a, b.prompt_ids, b[2:]) for a, b in zip(rows, made, strict=True)), bugs)


@claim("step-0", (0, 0), "largest log-ratio of a response, in nats, over all ways to hold a reference, in single precision")
def step_0(rng: Rng) -> Measured:
    """Before the first update every log-ratio is 0, and not nearly: policy and reference have the same weights, those of an
    adapter that was learned before merged into them, and answer by one function, in the same company, without dropout.
    False: It is 0, too, where the reference has dropout, is computed by another function, or is the network with all adapters
      off, that of the fine-tuning before included.
    Source: huggingface/trl#639; NVIDIA/NeMo-Aligner#227; huggingface/trl#495
    """
    groups = objective("dpo").groups(pairs(rng))
    tuned = adapted(weights(rng, np.float32), rng)
    start = lora.merged_weights(tuned)
    policy, noisy = loaded(start), loaded(start, dropout=0.1)
    lora.add_adapters(policy, rank=2, alpha=8, seed=2)

    def answer(made: GPT) -> Tensor:
        return made.response_logps(pack(groups, CONFIG)).logps.detach()

    def elsewhere() -> Tensor:
        rows, mask, response = padded(groups)
        return sequence_logps.formula(policy(rows, mask).detach(), rows, response).logps

    with TemporaryDirectory() as folder, torch.random.fork_rng():
        ways = [computed(policy, way) for way in ("copy", "offload", "lora")]
        ways.append(cached(policy, [groups], Path(folder) / "r.npz", "float32"))
        true = [float(abs(answer(policy) - way(groups)).max()) for way in ways]
        apart_by = {
            "dropout-active": answer(policy) - answer(noisy),
            "ref-computed-by-different-code-path": answer(policy) - elsewhere(),
            "adapter-disabled-means-base-not-sft": answer(tuned) - computed(tuned, "lora")(groups),
        }
    return broken(max(true), {bug: float(abs(gap).max()) for bug, gap in apart_by.items()})


@claim("settings", (0, 0), "losses that another repeats, of every method as it is used and with each of its numbers halved")
def settings(rng: Rng) -> Measured:
    """Every method is the one that was asked for, and each of its hyperparameters is felt. (One has the loss of another and is
    left out: plackett_luce_dpo, on two responses, is dpo.)
    False: So it is where a name is compared with something that it never equals, and what stands under "else" runs.
    Source: huggingface/trl#4171; modelscope/ms-swift#10167
    """
    policy, reference, of_kto, usual = model(weights(rng)), model(weights(rng)), judged(rng), pairs(rng)
    desirable = torch.tensor([isinstance(row, TokenizedCompletion) and row.label is True for row in of_kto])

    def losses(method: str) -> list[float]:
        asked_for = objective(method)
        groups = asked_for.groups(of_kto if method == "kto" else usual)
        halved = [{name: number / 2} for name, number in asked_for.hyperparameters.items()]
        each = [Objective(method, {**asked_for.hyperparameters, **changed}) for changed in ({}, *halved)]
        return [one.loss(policy, groups, scored(reference, groups), desirable, 0.5).total.item() for one in each]

    def repeated(found: Mapping[str, list[float]]) -> float:
        every = [loss for several in found.values() for loss in several]
        return float(len(every) - len({*every}))

    def overlooked(method: str) -> float:
        run = property(lambda self: METHODS["dpo" if self.method == method else self.method])
        with mock.patch.object(Objective, "operation", run):
            return repeated({**right, method: losses(method)})

    right = {method: losses(method) for method in METHODS if method != "plackett_luce_dpo"}
    bugs = {"f-divergence-enum-vs-string": overlooked("cdpo"), "ipo-target-from-wrong-loss-type": overlooked("ipo")}
    return broken(repeated(right), bugs)


@claim("divisor", (0, 1e-12), "loss and worst tensor of the gradient, relative, of a step of four pairs, two at once")
def divisor(rng: Rng) -> Measured:
    """The loss of a step is the mean over what this step holds, tokens in fine-tuning, however it is computed.
    False: So it is where the means of its parts are added up, where the mean is divided by their number again, where nothing is
      divided, or where the tokens of all that was drawn for several steps are counted.
    Source: huggingface/trl#2615; modelscope/ms-swift#10116; huggingface/trl#6024; HALOs dff58f8
    """
    made, rows, asked_for, counted = model(weights(rng)), pairs(rng), objective("sft"), Objective.examples
    step, everything = rows[:4], asked_for.groups(rows)
    alone = [made.response_logps(pack([group], CONFIG)) for group in asked_for.groups(step)]
    right = -torch.cat([one.logps for one in alone]).sum() / sum(int(one.lengths.sum()) for one in alone)
    right.backward()
    slopes = gradients(made)

    def gap(examples: Callable[[Objective, Sequence[Group]], float]) -> float:
        with mock.patch.object(Objective, "examples", examples):
            loss, _ = Trainer(made, asked_for, rows, [], Optimization(1.0), size=2).measure(step, learn=True)
        return max(abs(loss / right.item() - 1), apart(gradients(made), slopes))

    bugs: dict[str, Callable[[Objective, Sequence[Group]], float]] = {
        "grad-accum-not-divided": lambda self, groups: counted(self, groups) / 2,
        "divided-twice-by-grad-accum": lambda self, groups: counted(self, groups) * 2,
        "sum-vs-mean-loss-reduction": lambda self, groups: 1,
        "generation-batch-normaliser": lambda self, groups: counted(self, everything),
    }
    return broken(gap(counted), {bug: gap(examples) for bug, examples in bugs.items()})


@claim("metrics", (0, 1e-12), "largest difference of a metric from that of responses scored alone, over 1 + its magnitude")
def metrics(rng: Rng) -> Measured:
    """What is logged of chosen and rejected responses, or of desirable and undesirable ones, is the mean of what each has by
    itself.
    False: So it is where they are summed, where rewards [N] meet labels [N, 1], or where the two sides change places.
    Source: huggingface/trl#6424; linkedin/Liger-Kernel#592; hiyouga/LLaMA-Factory#6050
    """
    policy, reference, rows = model(weights(rng)), model(weights(rng)), {"dpo": pairs(rng), "kto": judged(rng)}
    on = {"dpo": [True, False] * 6, "kto": [n % 3 > 0 for n in range(6)]}

    def alone(method: str) -> dict[str, float]:
        each = [(prompt, [one]) for prompt, responses in objective(method).groups(rows[method]) for one in responses]
        logps, other = (np.array([float(scored(made, [one])[0]) for one in each]) for made in (policy, reference))
        named = {"logps": logps, "rewards": objective(method).hyperparameters["beta"] * (logps - other)}
        sides = {"chosen": np.array(on[method]), "rejected": ~np.array(on[method])}
        return {f"{name}/{side}": float(x[those].mean()) for name, x in named.items() for side, those in sides.items()}

    def gap(method: str) -> float:
        trainer = Trainer(policy, objective(method), rows[method], [], Optimization(1.0), partial(scored, reference), size=4)
        logged = trainer.measure(rows[method])[1]
        return max(abs(logged[name] - due) / (1 + abs(due)) for name, due in alone(method).items())

    def reported(statistic: Callable[[Tensor, Tensor], Tensor]) -> float:
        def monitors(rewards: Tensor, logps: Tensor, desirable: Tensor) -> dict[str, float]:
            named, sides = {"rewards": rewards, "logps": logps}, {"chosen": desirable, "rejected": ~desirable}
            return {f"{name}/{side}": float(statistic(x, those)) for name, x in named.items() for side, those in sides.items()}

        with mock.patch("gpt_tiny.methods._judged_monitors", monitors):
            return gap("kto")

    bugs = {
        "kto-logits-metric-is-a-sum": reported(lambda x, those: x[those].sum()),
        "kto-fused-metric-broadcast": reported(lambda x, those: (x * those[:, None]).sum() / those.sum()),
        "chosen-rejected-metrics-swapped": reported(lambda x, those: x[~those].mean()),
    }
    return broken(max(gap(method) for method in rows), bugs)


@claim("rollouts", (0, 1e-10), "largest log-ratio of the policy to the sampler of one response, in nats")
def rollouts(rng: Rng) -> Measured:
    """A response is as likely to the policy that learns from it as it was to the sampler that drew it: the ids are those that
    were drawn, logits are divided by the sampler's temperature, and the sampler's weights hold what the adapters have learned.
    False: So it is where the response is decoded and encoded again, where the policy's temperature is 1, or where the sampler
      runs the weights without their adapters.
    Source: huggingface/trl#5242; huggingface/trl#3029; huggingface/trl#2873
    """
    start, temperature, eos = weights(rng), 0.7, CONFIG.vocab_size - 1
    policy = adapted(start, rng)
    prompts = [ids(rng, 1, 7) for _ in range(8)]

    def again(response: Ids) -> Ids:
        """Token i is a run of i + 1 blanks, and the longest that fits is taken first."""
        blanks = sum(token + 1 for token in response if token != eos)
        return [eos - 1] * (blanks // eos) + [blanks % eos - 1] * (blanks % eos > 0) + [eos] * (eos in response)

    def gap(sampler: GPT, at: float = temperature, kept: Callable[[Ids], Ids] = list) -> float:
        with recorded(sampler) as logits:
            drawn = sample(sampler, prompts, eos, 8, temperature, seed=int(rng.integers(1000)))
        told = [torch.log_softmax(step / temperature, dim=-1) for step in logits]
        likely = [sum(float(told[t][n, token]) for t, token in enumerate(response)) for n, response in enumerate(drawn)]
        groups = [(prompt, [kept(response)]) for prompt, response in zip(prompts, drawn, strict=True)]
        found = policy.response_logps(pack(groups, CONFIG), lambda states, *rest: token_logps(states / at, *rest)).logps
        return float(np.max(abs(found.detach().numpy() - likely)))

    merged = model(lora.merged_weights(policy))
    bugs = {
        "retokenised-rollout-drift": gap(merged, kept=again),
        "temperature-not-in-logp": gap(merged, at=1.0),
        "lora-unmerged-before-weight-sync": gap(model(start)),
    }
    return broken(gap(merged), bugs)


@contextmanager
def recorded(sampler: GPT) -> Iterator[list[Tensor]]:
    """Inside, the logits [B, V] of every step that it takes."""
    logits, found = sampler.logits, list[Tensor]()

    def answer(hidden: Tensor) -> Tensor:
        found.append(logits(hidden))
        return found[-1]

    with mock.patch.object(sampler, "logits", answer):
        yield found


@claim("score", (0, 1e-14), "largest difference of a token's reward from that in the row without padding")
def score(rng: Rng) -> Measured:
    """PPO's rewards of a padded row are those of the bare one, whichever side is padded: each token pays for its own
    divergence, and the last that counts has the score.
    False: So they are where the score stands one place later, in front of the first padding, or where the row would end if it
      were padded on the right; or where the last token pays for all.
    Source: EleutherAI/gpt-neox#1285; huggingface/transformers#35352; huggingface/trl#2778; huggingface/trl#2575
    """
    mask, beta = np.arange(9) >= np.array([[4], [0], [2], [3]]), 0.3
    mask &= np.arange(9) < np.array([[9], [5], [7], [6]])
    logps, reference = -rng.exponential(size=(2, *mask.shape))
    scores, lengths, rows = 1 + rng.uniform(size=4), mask.sum(axis=1), range(4)
    penalties = np.where(mask, -beta * (logps - reference), 0.0)

    def bare(row: int) -> np.ndarray:
        due = penalties[row, mask[row]]
        due[-1] += scores[row]
        return due

    def gap(rewards: np.ndarray) -> float:
        return float(np.max([np.max(abs(rewards[row, mask[row]] - bare(row))) for row in rows]))

    def placed(places: np.ndarray, rewards: np.ndarray = penalties) -> float:
        got = np.pad(rewards, ((0, 0), (0, 1)))  # the place after the last token may be beyond the row
        got[rows, places] += scores
        return gap(got[:, :-1])

    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    at_the_last = np.where(np.arange(9) == last[:, None], penalties.sum(axis=1, keepdims=True), 0.0)
    bugs = {
        "score-at-wrong-position": min(placed(last + 1), placed(np.argmin(mask, axis=1) - 1), placed(lengths - 1)),
        "token-level-kl-no-op": placed(last, at_the_last),
    }
    return broken(gap(np.asarray(kl_shaped_rewards(scores, logps, reference, mask, beta))), bugs)


@claim("reward-place", (0, 1e-12), "largest difference of two rewards, in units of reward")
def reward_place(rng: Rng) -> Measured:
    """A reward model is read at the last token of prompt and response, whoever stands beside it, also where the id that pads is
    that of a token in the prompt.
    False: So it is one place later, or in front of the first token with that id, or at the end of the longest row.
    Source: EleutherAI/gpt-neox#1285; huggingface/transformers#35352; huggingface/trl#2778
    """
    scorer = ValueModel(CONFIG).double()
    scorer.load_weights({**weights(rng), "score.weight": rng.standard_normal((1, CONFIG.width))})
    groups: list[Group] = [([5, 0, 3], [[2, 4], [6]]), ([7, 0], [[3, 3, 1, 2]]), ([0, 1, 4, 2], [[5]])]
    rows = layout(groups)
    with quiet(scorer):
        scores = scorer.score(scorer.hidden(rows.tokens, rows.attention_mask))[:, :, 0].numpy()
        found = scorer.rewards(groups).numpy()
        texts = [torch.tensor([[*prompt, *ids]]) for prompt, responses in groups for ids in responses]
        bare = [scorer.score(scorer.hidden(text, torch.ones_like(text, dtype=torch.bool)))[0, -1, 0] for text in texts]
    due = torch.stack(bare).numpy()

    def gap(places: np.ndarray) -> float:
        return float(np.max(abs(scores[range(len(due)), places] - due)))

    last, first_pad = rows.attention_mask.sum(dim=1).numpy() - 1, (rows.tokens == 0).int().argmax(dim=1).numpy()
    width = rows.tokens.shape[1]
    places = np.minimum(last + 1, width - 1), first_pad - 1, np.full(len(last), width - 1)
    return broken(float(np.max(abs(found - due))), {"score-at-wrong-position": min(map(gap, places))})
