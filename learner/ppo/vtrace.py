"""V-trace value targets and advantages (Espeholt et al. 2018, "IMPALA", https://arxiv.org/abs/1802.01561).

Time-indexed, with ``V_t = value[t]``, ``V'_t = next_value[t]`` (the value of what really followed step ``t``: the true
final observation where an episode ended there) and ``rho_t = pi(a_t | x_t) / mu(a_t | x_t)``::

    delta_t = min(max_rho, rho_t) * (r_t + gamma_t V'_t - V_t)                                     (below eq. 1)
    v_t - V_t = delta_t + gamma_t c_t (v_{t+1} - V_{t+1}),    c_t = lambda min(max_c, rho_t)       (remarks 1, 2)
    advantage_t = r_t + gamma_t (V'_t + lambda (v_{t+1} - V_{t+1})) - V_t                          (section 4.2)

``gamma_t`` is zero only where the episode terminated; a truncated step still bootstraps, from ``V'_t``, but no
correction flows back over the end of an episode, however it ended. The advantage keeps lambda in its bootstrap (as rlax
does), so that it is generalised advantage estimation (Schulman et al. 2016) exactly where all ``rho = 1``. Step ``t``'s
own importance weight is left out of it: that is the ratio which PPO multiplies it with, and clips.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class VTrace(NamedTuple):
    """``target`` is what the value should be, ``advantage`` what the policy is told; both float32 ``[T, B]``."""

    target: Floats
    advantage: Floats


def vtrace(
    *,
    log_rho: Floats,
    reward: Floats,
    value: Floats,
    next_value: Floats,
    terminated: Bools,
    truncated: Bools,
    valid: Bools,
    gamma: float,
    trace_lambda: float,
    max_rho: float = 1.0,
    max_c: float = 1.0,
) -> VTrace:
    """All arrays are ``[T, B]``. Where ``valid`` is False the advantage is 0 and the target is ``value``."""
    arrays = (log_rho, reward, value, next_value, terminated, truncated, valid)
    if reward.ndim != 2 or any(array.shape != reward.shape for array in arrays):
        raise ValueError(f"expected seven arrays of one shape [T, B]; found {[array.shape for array in arrays]}")
    rho = np.exp(np.minimum(log_rho, np.float32(20.0)))  # no bound above that matters, and exp cannot overflow
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
