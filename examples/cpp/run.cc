// Runs an artifact without Python: tern-run FOLDER [REPEAT] [THREADS], FOLDER made by pack.py.
// Reads input0.bin, ..., writes output0.bin, ..., compares them with expected0.bin, ... where these are there.
#include <sys/utsname.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "board.h"

namespace ffi = tvm::ffi;

struct Memory {  // 64-byte aligned and zero, as the kernels need it
  void AllocData(DLTensor* t) {
    size_t size = (ffi::GetDataSize(*t) + 63) / 64 * 64;
    t->data = memset(aligned_alloc(64, std::max<size_t>(size, 64)), 0, size);
  }
  void FreeData(DLTensor* t) { free(t->data); }
};

static ffi::Tensor tensor(const std::string& dtype, const std::vector<int64_t>& shape) {
  DLDataType type{kDLFloat, 32, 1};
  if (dtype == "uint8") type = {kDLUInt, 8, 1};
  else if (dtype == "int8") type = {kDLInt, 8, 1};
  else if (dtype == "int32") type = {kDLInt, 32, 1};
  else if (dtype == "int64") type = {kDLInt, 64, 1};
  else if (dtype != "float32") throw std::runtime_error("no code for tensors of " + dtype);
  return ffi::Tensor::FromNDAlloc(Memory(), ffi::Shape(shape), type, DLDevice{kDLCPU, 0});
}

static bool fill(const ffi::Tensor& into, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return file && file.read(static_cast<char*>(into.data_ptr()), ffi::GetDataSize(into)).gcount() ==
                     static_cast<std::streamsize>(ffi::GetDataSize(into));
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
      for (int64_t size; words >> size;) sizes.push_back(size);
      if (key == "architecture" && word != os.machine)
        throw std::runtime_error(folder + " was built for " + word + "; this machine is " + os.machine);
      if (key == "feature" && !present.empty() && std::find(present.begin(), present.end(), word) == present.end())
        lacking.push_back(word);
      if (key == "steps") steps = std::stoll(word);
      if (key == "arena" || key == "constants") rest.push_back(tensor("uint8", {std::stoll(word)}));
      if (key == "input") inputs.push_back(tensor(word, sizes));
      if (key == "output") outputs.push_back(tensor(word, sizes));
    }
    if (!lacking.empty())
      throw std::runtime_error(folder + " needs CPU features that this machine (" + board::name() + ") does not have: " +
                               board::join(lacking) + "; export it for target 'arm'");
    if (rest.size() != 2 || !fill(rest[1], folder + "/constants.bin")) throw std::runtime_error(folder + " is damaged");
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
  if (output.dtype().code != kDLFloat) return -1;
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
    int repeat = argc > 2 ? atoi(argv[2]) : 20;
    setenv("TVM_NUM_THREADS", argc > 3 ? argv[3] : "1", 1);
    Network network(folder);
    ffi::Function main = ffi::Module::LoadFromFile(folder + "/model.so")->GetFunction("tern_main").value();
    for (size_t i = 0; i < network.inputs.size(); ++i)
      if (!fill(network.inputs[i], folder + "/input" + std::to_string(i) + ".bin"))
        throw std::runtime_error("input" + std::to_string(i) + ".bin is missing or too short");
    network.run(main);  // warm-up
    std::vector<double> us;
    for (int i = 0; i < repeat; ++i) {
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
