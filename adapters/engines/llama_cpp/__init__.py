"""The llama.cpp engine: continuous batching on the low-level API of llama-cpp-python.

What is registered, without anything native: `spec` (options, match, memory estimate) and `loader` (refuses other
versions). Handles: `native` (model, context, batch over ctypes), `amx` (keeps a miscompiled matrix unit away),
`tokenizer`, `sampler`. The step loop: `completions` (admit, decode one token each, prefill within a budget), with
`sequences` (a request on its way), `streams` (who owns which KV stream, and what prefix it holds), `rows` (idle streams
computed along) and `threads` (how many are fastest now). Beside it: `embedding` (a second context) and `exactness`
(measured at load whether a text depends on what else runs). `build` makes an `engine` of all that.
"""
