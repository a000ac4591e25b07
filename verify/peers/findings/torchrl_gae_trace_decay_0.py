"""torchrl==0.14.1: GAE with lmbda=0 or gamma=0 raises IndexError, and so does a product of theirs below 1e-7.

`GAE` is vectorized unless told not to, and `vec_generalized_advantage_estimate` with scalar gamma and lmbda filters the TD
errors with the series 1, gl, gl^2, ... of `_geom_series_like`. Where gl is 0 that returns zeros, without the leading 1 and
without the last axis, for which `_custom_conv1d` then asks: IndexError. Where gl is not 0 but below the threshold of 1e-7
the series is cut to length 0, and `rs[0] = 1.0` raises IndexError. lmbda=0 is TD(0), where the advantages are the TD
errors; the loop, `generalized_advantage_estimate`, gives them.

No report of it was found.
"""

import sys

import torch
from torchrl.objectives.value.functional import generalized_advantage_estimate, vec_generalized_advantage_estimate

value = torch.tensor([[0.5], [1.0], [-0.25]])
following = torch.tensor([[1.0], [-0.25], [0.0]])
reward = torch.tensor([[1.0], [0.0], [2.0]])
done = torch.tensor([[False], [False], [True]])

due = reward + 0.9 * following * ~done - value
loop, _ = generalized_advantage_estimate(0.9, 0.0, value, following, reward, done)
print("expected", due.flatten().tolist())
print("the loop", loop.flatten().tolist())
try:
    came, _ = vec_generalized_advantage_estimate(0.9, 0.0, value, following, reward, done)
except IndexError as error:
    print("got IndexError:", error)
    sys.exit(1)
print("got", came.flatten().tolist())
sys.exit(not torch.allclose(came, due))
