"""Caches that are written: programs of a serving loop, judged after every step.

``contract``   what a cache class is made with, and its methods
``rows``       the model: a list of tokens for each sequence
``session``    one object of a class, taken through a program
``judging``    every row of every step against golden
``attended``   which tokens a wrong row attended
``pages``      a paged cache, for adapters of paged kernels
``caches``, ``compiled``, ``torch_paged``, ``transformers_caches``, ``gpt_fast_cache``: classes
``faults``     faults of state, planted in sound classes
"""
