"""The geometries on which compiled paths are judged: each value of a geometry occurs in one."""

from __future__ import annotations

import random

from harness.case import DecodeCase

# Static shapes with q_len 1 and 512 slots per sequence: the CPU's split-KV decode kernel.
SPLIT = [
    "S=2048,pos=0,H=8,Hkv=2,dtype=bf16",
    "S=1024,pos=0/0,H=2,D=80,Dv=96,dtype=fp16,block=64,score=softcap:30+alibi,mask=sinks:40:4",
    "S=640,pos=0,H=16,Hkv=2,D=16,recipe=row,layout=longer,block=32",
    "S=512,pos=0,H=3,D=40,mask=window:100,score=bias:16+shift:-30,layout=bshd,block=16",
    "S=601,pos=0,H=2,D=16,mask=dilated:200:3",
    "S=1030,pos=0/0,H=2,D=32,layout=stepped,mask=document:300,dtype=bf16",
]
GENERAL = [
    "S=1000,pos=0/0,H=4,D=32,Dv=48,mask=window:100,block=64",
    "S=300,pos=0/0/0,H=6,Hkv=2,Q=4,D=40,mask=document:50,score=bias:16,layout=bshd",
    "S=513,pos=0,H=4,Hkv=1,Q=16,D=17,dtype=bf16,block=32,mask=prefix:70,layout=stepped",
    "S=256,pos=0,H=2,Q=128,D=128,dtype=fp16,layout=wider,block=128/64,mask=dilated:90:3",
    "S=2046,pos=0/0/0/0,D=16,layout=expanded,score=shift:-100,scale=0.05",
    "S=600,pos=0,H=5,D=256,recipe=kv-blocks,block=256,layout=stacked,views=outside",
    "S=1,pos=0,D=1,block=16",
    "S=130,pos=0/0,H=4,Hkv=2,Q=3,D=16,views=inside,layout=bshd,recipe=kv-blocks,dtype=fp16",
]
DYNAMIC = [
    "S=700,pos=0/0,H=4,dtype=bf16,mask=window:64,dynamic=yes",
    "S=300,pos=0/0,H=2,Q=5,D=32,score=softcap:20,layout=bshd,dynamic=yes",
]
POOL = [DecodeCase.from_text(f"{text},mode=compiled") for text in (*SPLIT, *GENERAL, *DYNAMIC)]


def in_order(seed: int) -> list[DecodeCase]:
    """The pool in an order of its own for each seed."""
    pool = list(POOL)
    random.Random(seed).shuffle(pool)
    return pool
