"""Models: one decoder and one encoder, each driven by a spec read from config.json.

    loader.py      files -> a loaded model: the only way in
    families.py    model_type -> spec and tensor names (decoders); encoder_families.py for encoders
    spec.py        what a decoder computes; encoder_spec.py for encoders
    layout.py      which tensors a spec needs; encoder_layout.py for encoders
    part.py        a run of layers, for a process that holds no more
    family_layouts.py   what checkpoints call those tensors
    heads.py       pooling, classifiers and masked LMs on an encoder; sentence.py sentence-transformers' settings
    tensor_index.py     safetensors, checked against that before a byte is allocated; weights.py reads them for torch
    images.py      weights packed for the compiled kernels, on disk; packing.py what is packed and how
    decoder.py     the forward pass over paged KV (the Executor of batch.py); encoder.py for encoders
    batch.py       the contract with the worker; info.py what a model says of itself
    fallback.py    whatever else transformers can build, through hf_folder.py

Never: imports code from a model's folder; imports transformers for a native family (fallback.py and hf_folder.py
do for others); knows a scheduler, a request or a tenant; makes the KV.
Imports: ops, store (safetensors headers), errors, limits, wire. Imported by worker.
"""
