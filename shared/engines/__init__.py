"""Engines: each runs one kind of program behind the interface in ``engine``.

Entry point: ``load.load_program``. Actors load programs with it; learners prove exported programs with it.
"""
