"""One call of a policy (flatten the observation, order the inputs, check the action) and calls of exported modules.

Entry points: ``policy_call.PolicyCall`` and ``module_call.load_policy``, for the agent and ``rl_hotswap``.
"""
