"""Mixtures: who speaks with whom and how loud (a plan), and the wav files made of it. A procedure is a module with

    MODES                                     of length: the first is the usual one
    check(config, counts)                     refuses settings that it cannot follow, before anything is done
    parts(n_speakers, noisy)                  folders of a mixture's files: the mixture's, the sources', and the noise's
    folder(data, n_speakers, version, split)  where they are written
    plan(table, split, n, ...)                list of `PlannedMixture`
    load(path, rates)                         everything that its mixtures need of one recording, a dictionary of arrays
    mix(planned, voices, version)             samples by part, and the gains that made them
    finish(data, ...)                         lists that go beside the files

and nothing else differs: tables, rendering, data directories and training are the same for all.
"""
