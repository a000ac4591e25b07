"""The textbook port as a program of its own: JSON lines on stdin and stdout, as the contract spells them."""

import json
import math
import sys

import numpy as np
import textbook

OPERATIONS = """
    bradley_terry plackett_luce optimal_policy kl_regularized_objective dpo cdpo robust_dpo plackett_luce_dpo ipo
    ipo_length_normalized rso_hinge kto kto_reference_point orpo simpo sppo diffusion_dpo sequence_logps linear_sequence_logps
    kl_estimates gae ppo_policy ppo_value advantages_grpo advantages_dr_grpo advantages_rloo grpo sequence_mean token_mean
    constant_mean overlong_penalty rejection_acceptance
""".split()
DTYPES = {"f": np.float64, "b": np.bool_, "iu": np.int64, "iuf": np.float64}


def argument(name, value, shape, dtype):
    if not isinstance(value, list):
        return float(value) if isinstance(value, str) else value
    kind = textbook.KINDS.get(name, "f")
    array = np.array(value, DTYPES[kind]).reshape(shape or np.shape(value))
    return array.astype(dtype) if kind == "f" else array


def spelled(value):
    if isinstance(value, list):
        return [spelled(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def answer(request):
    shapes, dtype = request.get("shapes", {}), request["dtype"]
    inputs = {name: argument(name, value, shapes.get(name), dtype) for name, value in request["inputs"].items()}
    try:
        outputs = getattr(textbook, request["operation"])(**inputs)
    except ValueError as error:
        return {"id": request["id"], "error": str(error)}
    return {"id": request["id"], "outputs": {name: spelled(np.asarray(value).tolist()) for name, value in outputs.items()}}


def say(message):
    print(json.dumps(message, allow_nan=False), flush=True)


if __name__ == "__main__":
    assert json.loads(sys.stdin.readline())["protocol"] == 1
    say({"name": "textbook", "version": "1", "language": "python", "operations": OPERATIONS, "dtypes": ["float64", "float32"]})
    for line in sys.stdin:
        request = json.loads(line)
        if request["cmd"] == "stop":
            break
        say(answer(request))
