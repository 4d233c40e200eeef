"""Complete trainings of CartPole-v1: time until solved, and training speed beside Stable-Baselines3's PPO.

Entry points: ``solve.measure_solve`` and ``training_speed.measure_training``.
"""
