// Which instruction set the kernels run on.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace pilot::cpu {

// The instruction sets that this CPU has kernels for, the slowest first.
std::vector<std::string> capabilities();

// The one in use: the fastest, or what the environment variable PILOT_CPU_CAPABILITY names.
std::string capability();

// Takes another, in all threads, from their next call on. Throws std::invalid_argument for one that this CPU lacks.
void use_capability(const std::string& name);

// Of the instruction set in use.
template <typename T>
const Kernels<T>& kernels();

}  // namespace pilot::cpu
