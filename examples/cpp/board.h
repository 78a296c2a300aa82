// What the board says about itself, as the JSON that tern-bench expects (tvm_schedules/engines/system.py has the Python form).
#pragma once
#include <sched.h>
#include <sys/auxv.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace board {

inline std::string read(const std::string& path) {  // a small text file without what ends it; empty where there is none
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  std::string s = text.str();
  while (!s.empty() && (s.back() == '\n' || s.back() == '\0' || s.back() == ' ')) s.pop_back();
  return s;
}

inline std::string quote(const std::string& text) {
  std::string made = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') made += '\\';
    if (static_cast<unsigned char>(c) >= ' ') made += c;
  }
  return made + "\"";
}

inline std::string join(const std::vector<std::string>& parts) {
  std::string made;
  for (const auto& part : parts) made += (made.empty() ? "" : ", ") + part;
  return made;
}

inline std::string value(const std::string& path, const std::string& key) {  // of "key : value" lines, the first
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    size_t colon = line.find(':');
    if (line.compare(0, key.size(), key) || colon == std::string::npos) continue;
    size_t from = line.find_first_not_of(" \t", colon + 1);
    return from == std::string::npos ? "" : line.substr(from);
  }
  return "";
}

inline std::vector<int> cpus() {
  std::vector<int> made;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set)) return {0};
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &set)) made.push_back(i);
  return made;
}

// Whole CPUs that the quota of the control group in a folder is worth, 0 without one; of 1.5 one.
inline int quota_of(const std::string& folder) {
  std::string text = read(folder + "/cpu.max");  // version 2
  if (text.empty()) text = read(folder + "/cpu.cfs_quota_us") + " " + read(folder + "/cpu.cfs_period_us");
  long quota = 0, period = 0;
  if (sscanf(text.c_str(), "%ld %ld", &quota, &period) != 2 || quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::max(1L, quota / period));
}

// The least quota of this process's control groups and of those that they are in, 0 without one.
inline int quota(const std::string& groups = "/proc/self/cgroup", const std::string& root = "/sys/fs/cgroup") {
  std::ifstream file(groups);
  int least = 0;
  for (std::string line; std::getline(file, line);) {  // number:controllers:/path
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    bool unified = controllers == ",,";
    if (!unified && controllers.find(",cpu,") == std::string::npos) continue;
    for (std::string mount : {unified ? "" : "/cpu", unified ? "/unified" : "/cpu,cpuacct"})
      for (std::string path = line.substr(second + 1);; path.erase(path.find_last_of('/'))) {  // up to the root
        int found = quota_of(root + mount + path);
        if (found && (!least || found < least)) least = found;
        if (path.find('/') == std::string::npos) break;
      }
  }
  return least;
}

// How many threads are of use: TVM_NUM_THREADS, or the CPUs that this process may use, as far as it may use their time.
inline int threads() {
  const char* setting = std::getenv("TVM_NUM_THREADS");
  int asked = setting ? std::atoi(setting) : 0, limit = quota(), all = static_cast<int>(cpus().size());
  return asked > 0 ? asked : limit && limit < all ? limit : all;
}

// Instruction sets by LLVM's names, as in tvm_schedules/targets/host_cpu.py; known for AArch64 alone.
inline std::vector<std::string> features() {
  std::vector<std::string> made;
#ifdef __aarch64__
  struct { const char* name; int kind, bit; } const all[] = {
      {"neon", AT_HWCAP, 1},     {"crc", AT_HWCAP, 7},      {"lse", AT_HWCAP, 8},      {"fullfp16", AT_HWCAP, 10},
      {"rdm", AT_HWCAP, 12},     {"dotprod", AT_HWCAP, 20}, {"fp16fml", AT_HWCAP, 23}, {"sve", AT_HWCAP, 22},
      {"sve2", AT_HWCAP2, 1},    {"i8mm", AT_HWCAP2, 13},   {"bf16", AT_HWCAP2, 14}};
  for (const auto& entry : all)
    if (getauxval(entry.kind) >> entry.bit & 1) made.push_back(entry.name);
#endif
  return made;
}

inline std::string name() {
  std::string model = read("/proc/device-tree/model");
  if (model.empty()) model = value("/proc/cpuinfo", "model name");
  if (model.empty()) model = "ARM part " + value("/proc/cpuinfo", "CPU part");
  return model;
}

inline std::string describe() {
  utsname os{};
  uname(&os);
  std::vector<std::string> sets;
  for (const auto& set : features()) sets.push_back(quote(set));
  std::string memory = value("/proc/meminfo", "MemTotal");
  return "{\"cpu\": " + quote(name()) + ", \"architecture\": " + quote(os.machine) +
         ", \"features\": " + (sets.empty() ? "null" : "[" + join(sets) + "]") +
         ", \"cores\": " + std::to_string(cpus().size()) + ", \"threads\": " + std::to_string(threads()) +
         ", \"memory_bytes\": " + (memory.empty() ? "null" : std::to_string(std::atoll(memory.c_str()) * 1024)) +
         ", \"system\": " + quote(std::string(os.sysname) + " " + os.release) + "}";
}

inline std::string condition() {
  std::vector<std::string> clocks, governors, heat, cooling;
  for (int cpu : cpus()) {
    std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpufreq/";
    std::string clock = read(folder + "scaling_cur_freq"), governor = read(folder + "scaling_governor");
    if (!clock.empty()) clocks.push_back(std::to_string(std::atof(clock.c_str()) / 1e3));
    if (!governor.empty() && (governors.empty() || governors.back() != quote(governor))) governors.push_back(quote(governor));
  }
  for (int i = 0; i < 64; ++i) {
    std::string zone = "/sys/class/thermal/thermal_zone" + std::to_string(i) + "/", temp = read(zone + "temp");
    if (!temp.empty()) heat.push_back(quote(read(zone + "type")) + ": " + std::to_string(std::atof(temp.c_str()) / 1e3));
    std::string device = "/sys/class/thermal/cooling_device" + std::to_string(i) + "/", state = read(device + "cur_state");
    std::string type = read(device + "type");
    if (!state.empty() && type.find("cpu") != std::string::npos)
      cooling.push_back(quote(type) + ": " + std::to_string(std::atoi(state.c_str())));
  }
  auto list = [](const std::vector<std::string>& parts, char open, char close) {
    return parts.empty() ? std::string("null") : open + join(parts) + close;
  };
  double load[3];
  std::string loads = "null";
  if (getloadavg(load, 3) == 3)
    loads = "[" + std::to_string(load[0]) + ", " + std::to_string(load[1]) + ", " + std::to_string(load[2]) + "]";
  std::string throttled = read("/sys/devices/platform/soc/soc:firmware/get_throttled");
  return "{\"load\": " + loads + ", \"clock_mhz\": " + list(clocks, '[', ']') + ", \"governor\": " +
         list(governors, '[', ']') + ", \"temperature_c\": " + list(heat, '{', '}') + ", \"throttled\": " +
         (throttled.empty() ? "null" : quote(throttled)) + ", \"cooling\": " + list(cooling, '{', '}') + "}";
}

inline long long peak_bytes() { return std::atoll(value("/proc/self/status", "VmHWM").c_str()) * 1024; }

inline std::string memory(long long before) {
  return "{\"peak_bytes\": " + std::to_string(peak_bytes()) +
         ", \"own_bytes\": " + std::to_string(peak_bytes() - before) + "}";
}

}  // namespace board
