"""V-trace value targets and advantages (Espeholt et al. 2018, "IMPALA", https://arxiv.org/abs/1802.01561).

With ``V_t = value[t]``, ``V'_t = next_value[t]`` and ``rho_t = pi(a_t | x_t) / mu(a_t | x_t)``::

    delta_t = min(max_rho, rho_t) * (r_t + gamma_t V'_t - V_t)                                     (below eq. 1)
    v_t - V_t = delta_t + gamma_t c_t (v_{t+1} - V_{t+1}),    c_t = lambda min(max_c, rho_t)       (remarks 1, 2)
    advantage_t = r_t + gamma_t (V'_t + lambda (v_{t+1} - V_{t+1})) - V_t                          (section 4.2)

``gamma_t`` is zero only where the episode terminated. A truncated step bootstraps from ``V'_t``. No correction flows
back over the end of an episode, terminated or truncated. As in rlax, the advantage keeps lambda in its bootstrap, so
that it equals generalised advantage estimation (Schulman et al. 2016) where all ``rho = 1``. The importance weight of
step ``t`` itself is not in the advantage: it is the ratio that PPO multiplies the advantage with, and clips.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Steps(NamedTuple):
    """Arrays ``[T, B]`` of a batch.

    ``log_rho`` is the logarithm of the importance weights. ``next_value`` is the value of the next observation; at the
    end of an episode, of its final observation. ``valid`` is False for steps on which environments only reset.
    """

    log_rho: Floats
    reward: Floats
    value: Floats
    next_value: Floats
    terminated: Bools
    truncated: Bools
    valid: Bools


class VTrace(NamedTuple):
    """Targets of the value and advantages for the policy, float32 ``[T, B]``."""

    target: Floats
    advantage: Floats


def vtrace(steps: Steps, *, gamma: float, trace_lambda: float, max_rho: float = 1.0, max_c: float = 1.0) -> VTrace:
    """Return V-trace targets and advantages of ``steps``.

    Invalid steps get an advantage of 0 and ``value`` as their target. ``gamma`` is the discount; ``max_rho`` and
    ``max_c`` are the paper's rho-bar and c-bar. Raises ValueError if the arrays are not all of one shape ``[T, B]``.
    """
    log_rho, reward, value, next_value, terminated, truncated, valid = steps
    if reward.ndim != 2 or any(array.shape != reward.shape for array in steps):
        raise ValueError(f"expected seven arrays of one shape [T, B]; found {[array.shape for array in steps]}")
    rho = np.exp(np.minimum(log_rho, np.float32(20.0)))  # exp cannot overflow, and larger weights are clipped anyway
    clipped_rho = np.minimum(rho, np.float32(max_rho))
    discount = np.float32(gamma) * ~terminated
    error = (reward + discount * next_value - value) * valid
    delta = clipped_rho * error
    carry = np.float32(trace_lambda) * discount * (valid & ~truncated)
    trace = carry * np.minimum(rho, np.float32(max_c))

    correction = np.empty_like(delta)  # v_t - V_t
    following = np.zeros_like(delta)  # v_{t+1} - V_{t+1}
    correction[-1] = delta[-1]
    for t in range(len(delta) - 2, -1, -1):
        following[t] = correction[t + 1]
        np.multiply(trace[t], following[t], out=correction[t])
        correction[t] += delta[t]
    return VTrace(value + correction, error + carry * following)
