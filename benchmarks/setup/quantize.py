"""A GGUF file with fewer bits, by llama.cpp. Usage: quantize.py SOURCE TARGET q8_0|q4_0"""

import ctypes
import os
import sys

import llama_cpp

source, target, kind = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = {"q4_0": 2, "q8_0": 7}[kind]
params.nthread = os.cpu_count()
if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
    sys.exit(f"llama.cpp could not make {target}")
