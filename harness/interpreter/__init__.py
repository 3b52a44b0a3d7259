"""torch's own Triton kernels for FlexAttention, run in Triton's interpreter on the CPU.

``gpu``         the GPU whose kernels are generated, and what a process needs for that
``kernels``     inductor made to generate them: the one place that changes torch
``templates``   the two templates of FlexAttention: which ran, and their text rewritten
``arithmetic``  what Triton's interpreter lacks: functions of libdevice, arithmetic of 16 bits
``overhead``    what the interpreter does over and over without an effect, left out

What it shows is a prediction until a GPU confirms it: see ``docs/triton.md``.
"""
