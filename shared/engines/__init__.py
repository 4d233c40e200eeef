"""Engines: each runs one kind of program behind the interface in ``engine``.

Entry point: ``load.load_program``. Actors load programs with it; the learner checks exported programs with the engine
classes. An engine that one side alone uses stays here: all of them pass one contract suite (tests/contract).
"""
