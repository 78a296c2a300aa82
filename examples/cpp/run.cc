// Runs an artifact without Python: tern-run FOLDER [REPEAT] [THREADS], FOLDER made by pack.py.
// Reads input0.bin, ..., writes output0.bin, ..., compares them with expected0.bin, ... where these are there.
#include <sys/utsname.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <stdexcept>

#include "board.h"

namespace ffi = tvm::ffi;

struct Memory {  // 64-byte aligned and zero, as the kernels need it
  void AllocData(DLTensor* t) {
    size_t size = std::max<size_t>((ffi::GetDataSize(*t) + 63) / 64 * 64, 64);
    t->data = aligned_alloc(64, size);
    if (!t->data) throw std::runtime_error("there is no memory for " + std::to_string(size) + " bytes");
    memset(t->data, 0, size);
  }
  void FreeData(DLTensor* t) { free(t->data); }
};

constexpr int64_t kMost = int64_t{1} << 40;  // bytes of a tensor

// The whole of a text as a number in [low, high].
static int64_t number(const std::string& text, int64_t low, int64_t high, const std::string& what) {
  char* end = nullptr;
  errno = 0;
  long long value = strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end || errno || value < low || value > high)
    throw std::runtime_error(what + " must be a number in [" + std::to_string(low) + ", " + std::to_string(high) +
                             "], got '" + text + "'");
  return value;
}

static ffi::Tensor tensor(const std::string& dtype, const std::vector<int64_t>& shape) {
  static const std::map<std::string, DLDataType> types{
      {"bool", {kDLBool, 8, 1}},      {"int8", {kDLInt, 8, 1}},     {"int16", {kDLInt, 16, 1}},
      {"int32", {kDLInt, 32, 1}},     {"int64", {kDLInt, 64, 1}},   {"uint8", {kDLUInt, 8, 1}},
      {"uint16", {kDLUInt, 16, 1}},   {"uint32", {kDLUInt, 32, 1}}, {"uint64", {kDLUInt, 64, 1}},
      {"float16", {kDLFloat, 16, 1}}, {"float32", {kDLFloat, 32, 1}}, {"float64", {kDLFloat, 64, 1}}};
  auto type = types.find(dtype);
  if (type == types.end()) throw std::runtime_error("no code for tensors of '" + dtype + "'");
  int64_t bytes = type->second.bits / 8;
  for (int64_t size : shape) {
    if (size < 1 || size > kMost / bytes) throw std::runtime_error("a tensor is larger than memory");
    bytes *= size;
  }
  return ffi::Tensor::FromNDAlloc(Memory(), ffi::Shape(shape), type->second, DLDevice{kDLCPU, 0});
}

// Whether a file holds a tensor's bytes, all of them and no more.
static bool fill(const ffi::Tensor& into, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::streamsize size = ffi::GetDataSize(into);
  return file && file.read(static_cast<char*>(into.data_ptr()), size).gcount() == size && file.peek() == EOF;
}

// The values of a key in a folder's plan.txt, in its order.
static std::vector<std::string> listed(const std::string& folder, const std::string& wanted) {
  std::ifstream plan(folder + "/plan.txt");
  std::vector<std::string> found;
  for (std::string line, key, word; std::getline(plan, line);)
    if (std::istringstream(line) >> key >> word && key == wanted) found.push_back(word);
  return found;
}

// Where the code for this CPU is: the first of an artifact's versions whose features are all there, else its own.
static std::string version_of(const std::string& folder) {
  std::vector<std::string> present = board::features();
  for (const std::string& name : listed(folder, "version")) {
    std::vector<std::string> needed = listed(folder + "/" + name, "feature");
    bool all = !needed.empty();
    for (const std::string& feature : needed)
      all = all && std::find(present.begin(), present.end(), feature) != present.end();
    if (all) return folder + "/" + name;
  }
  return folder;
}

struct Network {
  std::vector<ffi::Tensor> inputs, outputs, rest;  // rest: arena, constants
  std::vector<std::string> lacking;
  int64_t steps = 0;

  explicit Network(const std::string& folder) {
    std::ifstream plan(folder + "/plan.txt");
    if (!plan) throw std::runtime_error(folder + "/plan.txt is not there; make it with pack.py");
    std::vector<std::string> present = board::features();
    utsname os{};
    uname(&os);
    for (std::string line; std::getline(plan, line);) {
      std::istringstream words(line);
      std::string key, word;
      words >> key >> word;
      std::vector<int64_t> sizes;
      for (std::string size; words >> size;) sizes.push_back(number(size, 1, kMost, "a size in plan.txt"));
      if (key == "architecture" && word != os.machine)
        throw std::runtime_error(folder + " was built for " + word + "; this machine is " + os.machine);
      if (key == "feature" && !present.empty() && std::find(present.begin(), present.end(), word) == present.end())
        lacking.push_back(word);
      if (key == "steps") steps = number(word, 0, 1 << 30, "steps in plan.txt");
      if (key == "arena" || key == "constants")
        rest.push_back(tensor("uint8", {number(word, 1, kMost, key + " in plan.txt")}));
      if (key == "input") inputs.push_back(tensor(word, sizes));
      if (key == "output") outputs.push_back(tensor(word, sizes));
    }
    if (!lacking.empty())
      throw std::runtime_error(folder + " needs CPU features that this machine (" + board::name() + ") does not have: " +
                               board::join(lacking) + "; export it for target 'arm'");
    if (rest.size() != 2 || inputs.empty() || outputs.empty() || !fill(rest[1], folder + "/constants.bin"))
      throw std::runtime_error(folder + " is damaged");
  }

  void run(const ffi::Function& function) const {
    std::vector<ffi::AnyView> arguments;
    for (const auto* part : {&inputs, &outputs, &rest})
      for (const auto& entry : *part) arguments.emplace_back(entry);
    arguments.emplace_back(int64_t{0});
    arguments.emplace_back(steps);
    ffi::Any nothing;
    function.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &nothing);
  }
};

// Largest difference of a float output from onnxruntime's, relative to its largest value; negative: not known.
static double difference(const ffi::Tensor& output, const std::string& path) {
  if (output.dtype().code != kDLFloat || output.dtype().bits != 32) return -1;
  ffi::Tensor expected = tensor("float32", {static_cast<int64_t>(ffi::GetDataSize(output) / 4)});
  if (!fill(expected, path)) return -1;
  const float *a = static_cast<float*>(output.data_ptr()), *b = static_cast<float*>(expected.data_ptr());
  double worst = 0, scale = 0;
  for (size_t i = 0; i < ffi::GetDataSize(output) / 4; ++i)
    worst = std::max(worst, std::fabs(double(a[i]) - b[i])), scale = std::max(scale, std::fabs(double(b[i])));
  return scale > 0 ? worst / scale : worst;
}

int main(int argc, char** argv) {
  if (argc < 2) return fprintf(stderr, "usage: %s FOLDER [REPEAT] [THREADS]\n", argv[0]), 2;
  try {
    std::string folder = argv[1];
    int64_t repeat = argc > 2 ? number(argv[2], 0, 1000000000, "REPEAT") : 20;
    int64_t threads = argc > 3 ? number(argv[3], 1, 1024, "THREADS") : 1;
    setenv("TVM_NUM_THREADS", std::to_string(threads).c_str(), 1);
    std::string code = version_of(folder);
    Network network(code);
    ffi::Function main = ffi::Module::LoadFromFile(code + "/model.so")->GetFunction("tern_main").value();
    for (size_t i = 0; i < network.inputs.size(); ++i)
      if (!fill(network.inputs[i], folder + "/input" + std::to_string(i) + ".bin"))
        throw std::runtime_error("input" + std::to_string(i) + ".bin is missing or of another size");
    network.run(main);  // warm-up
    std::vector<double> us;
    for (int64_t i = 0; i < repeat; ++i) {
      auto start = std::chrono::steady_clock::now();
      network.run(main);
      us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }
    for (size_t i = 0; i < network.outputs.size(); ++i) {
      const ffi::Tensor& output = network.outputs[i];
      std::string number = std::to_string(i) + ".bin";
      std::ofstream(folder + "/output" + number, std::ios::binary)
          .write(static_cast<char*>(output.data_ptr()), ffi::GetDataSize(output));
      double found = difference(output, folder + "/expected" + number);
      if (found >= 0) printf("output %zu: relative difference from onnxruntime %.1e\n", i, found);
    }
    std::sort(us.begin(), us.end());
    if (!us.empty())
      printf("median %.1f us, min %.1f, quartiles %.1f - %.1f, %zu runs, peak memory %.1f MB\n", us[us.size() / 2], us[0],
             us[us.size() / 4], us[us.size() * 3 / 4], us.size(), board::peak_bytes() / 1e6);
  } catch (const std::exception& error) {
    return fprintf(stderr, "error: %s\n", error.what()), 1;
  }
  return 0;
}
