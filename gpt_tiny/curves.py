"""The figure of a run: what its metrics.jsonl has a line a step of."""

import json
from io import BytesIO
from pathlib import Path

from .checkpoint import write_whole

PANELS = {
    "loss (nats)": ("loss", "eval_loss"),
    "implicit rewards": ("rewards/chosen", "rewards/rejected", "rewards/margins"),
    "accuracy": ("rewards/accuracies", "eval_rewards/accuracies"),
    "log-probabilities (nats)": ("logps/chosen", "logps/rejected"),
    "reward": ("reward",),
    "divergence from the reference (nats)": ("kl",),
    "tokens of a response": ("completions/mean_length",),
    "loss of the critic": ("value_loss",),
    "norm of the gradient": ("grad_norm",),
    "learning rate": ("learning_rate",),
}


def draw(metrics: Path, figure: Path) -> bool:
    """Draw what is there of PANELS over the steps; False, and nothing drawn, where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    panels = {title: names for title, names in PANELS.items() if any(name in line for line in lines for name in names)}
    sheet = Figure(figsize=(9, 2.4 * -(-len(panels) // 2)), layout="constrained")
    axes = [*sheet.subplots(-(-len(panels) // 2), 2, squeeze=False).flat]
    for ax, (title, names) in zip(axes, panels.items(), strict=False):
        ax.set(title=title, xlabel="step")
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                ax.plot(
                    *zip(*points, strict=True),
                    label=name,
                    linewidth=1.2,
                    marker="o" if len(points) < 20 else None,
                    markersize=3,
                )
        ax.legend(frameon=False, fontsize=8)
        ax.grid(alpha=0.25)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    image = BytesIO()
    sheet.savefig(image, dpi=110)
    write_whole(figure, image.getvalue())
    return True
