"""Mixing procedures: who speaks with whom and how loud (the plan), and the wav files of the plan.

Each procedure is a module with the functions of `procedures.Procedure`. Tables, rendering, data
directories and training are the same for all of them.
"""
