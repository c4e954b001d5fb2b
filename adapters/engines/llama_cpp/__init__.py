"""The llama.cpp engine: continuous batching on the low-level API of llama-cpp-python.

spec.py         what the engine registers: options, match, memory estimate; imports nothing native
loader.py       a `LoadRequest` becomes a `LlamaCppEngine`
native.py       model, context and batch handles over ctypes, with Corral's errors
amx.py          keeps a miscompiled matrix unit from killing the process
tokenizer.py    text to token ids and back
sampler.py      sampling params become a llama.cpp sampler chain; log-probabilities
streams.py      KV streams: who owns which, what prefix each one holds, copying prefixes
engine.py       the step loop: admit, decode one token each, prefill within a budget
exactness.py    measures at load whether a text depends on what else runs
threads.py      moves the thread count to what is fastest now
embedding.py    the second context, for embeddings
"""
