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
``by_hand``    functions of torch that compute attention where it cannot be seen
``replacing``  functions of torch under other names, for a time
``sighting``   what one call attends, and whether it computes that rightly
``differing``  two calls on the same keys and values
``slots_text`` which slots rows attend, and where calls differ, as text
``placed``     a mask next to the slots that were written
``coverage``   layers in which no call was seen
``report``     what the calls in a block showed
``watch``      any model or script, without a reference
``testing``    an assertion for a project's own tests
``text``       the results for a terminal and as JSON

The models are ``transformers_models`` and ``gpt_fast``; each needs its package or checkout.
"""
