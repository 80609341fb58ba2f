"""Models: one decoder and one encoder, each driven by a spec read from config.json.

    loader.py      files -> a loaded model: the only way in
    families.py    model_type -> spec and tensor names (decoders); encoder_families.py for encoders
    spec.py        what a decoder computes; encoder_spec.py for encoders
    layout.py      which tensors a spec needs; family_layouts.py what checkpoints call them; also encoder_layout.py
    heads.py       pooling, classifiers and masked LMs on an encoder; sentence.py sentence-transformers' settings
    weights.py     safetensors, checked against that before a byte is allocated
    decoder.py     the forward pass over paged KV (the Executor of batch.py); encoder.py for encoders
    batch.py       the contract with the worker; info.py what a model says of itself
    fallback.py    whatever else transformers can build, through hf_folder.py

Never: imports code from a model's folder; knows a scheduler, a request or a tenant; makes the KV. Only the fallback
imports transformers.
Imports: ops, errors, limits, wire. Imported by worker.
"""
