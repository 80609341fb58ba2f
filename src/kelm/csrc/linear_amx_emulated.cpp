// linear_amx.cpp with tiles in plain C++, for tests. No machine ever chooses it.
#define KELM_EMULATE_TILES
#include "linear_amx.cpp"
