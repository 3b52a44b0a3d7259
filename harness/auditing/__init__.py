"""Audit of a model that decodes with a KV cache: which layer, which step, which slots, whose fault.

``call``       one attention call of a model, and what float64 says of it
``recorder``   gets the attention calls
``stated``     what masks and changes of scores say
``in_graph``   calls within compiled code, handed over by an operator
``observe``    records the attention calls of any PyTorch model while it runs
``reference``  the same tokens in one uncached forward, in float64
``content``    which token each slot of a cache holds
``blame``      what is wrong with a call: position, cache content, mask or kernel
``look``       one sequence of a call beside its reference
``deciding``   which blame a call gets
``scenario``   prefill, decoding, chunks, drafts that are rolled back, padding
``run``        a model through a scenario, call by call
``watch``      any model, without a reference
``testing``    an assertion for a project's own tests
``text``       the results for a terminal and as JSON

The models are ``transformers_models`` and ``gpt_fast``; each needs its package or checkout.
"""
