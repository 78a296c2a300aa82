// A CUDA driver that runs kernels on the CPU: libcuda.so.1 with the functions that tvm_schedules.backends.gpu.devices.cuda calls, by the
// signatures of NVIDIA's reference. An image is text: the path of a library made with cuda_on_cpu.h, and a line
// "kernel arguments" for every kernel (a real image says how many arguments a kernel has).
#include <dlfcn.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <vector>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct Context* CUcontext;
struct Graph;
typedef struct Stream* CUstream;
struct Function { void* code; int arguments; struct Module* owner; };
struct Module { void* library; std::map<std::string, Function> functions; };
struct Call { Function* f; unsigned grid[3], threads; void* pointers[14]; };
struct Graph { std::vector<Call> calls; };
struct Stream { bool capturing; Graph graph; };
typedef void (*Launch)(void*, int, int, int, int, void**);

static bool started, current;
static const CUresult OK = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, NOT_FOUND = 500;

extern "C" {
CUresult cuInit(unsigned flags) { started = true; return flags ? INVALID_VALUE : OK; }
CUresult cuDeviceGetCount(int* count) { *count = 1; return started ? OK : NOT_INITIALIZED; }
CUresult cuDeviceGet(CUdevice* device, int ordinal) { *device = ordinal; return ordinal ? INVALID_VALUE : OK; }
CUresult cuDeviceGetName(char* name, int length, CUdevice) { snprintf(name, length, "CPU"); return OK; }
CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
  return *value < 0 ? INVALID_VALUE : OK;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { *context = (CUcontext)&current; return OK; }
CUresult cuCtxSetCurrent(CUcontext context) { current = context == (CUcontext)&current; return OK; }
CUresult cuCtxSynchronize() { return current ? OK : INVALID_CONTEXT; }
CUresult cuMemAlloc_v2(CUdeviceptr* at, size_t size) {
  if (!current || !size) return INVALID_VALUE;
  *at = (CUdeviceptr)(uintptr_t)aligned_alloc(256, (size + 255) / 256 * 256);
  return OK;
}
CUresult cuMemFree_v2(CUdeviceptr at) { free((void*)(uintptr_t)at); return OK; }
CUresult cuMemsetD8_v2(CUdeviceptr at, unsigned char value, size_t count) {
  memset((void*)(uintptr_t)at, value, count);
  return OK;
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t count) {
  memcpy((void*)(uintptr_t)to, from, count);
  return OK;
}
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t count) {
  memcpy(to, (void*)(uintptr_t)from, count);
  return OK;
}
CUresult cuModuleLoadData(Module** module, const void* image) {
  std::istringstream text((const char*)image);
  std::string path, name;
  int arguments;
  std::getline(text, path);
  *module = new Module{dlopen(path.c_str(), RTLD_NOW), {}};
  if (!(*module)->library) return INVALID_VALUE;
  while (text >> name >> arguments) {
    (*module)->functions[name] = {dlsym((*module)->library, name.c_str()), arguments, *module};
  }
  return OK;
}
CUresult cuModuleGetFunction(Function** function, Module* module, const char* name) {
  auto found = module->functions.find(name);
  if (found == module->functions.end()) return NOT_FOUND;
  *function = &found->second;
  return OK;
}
static void run(Call& call) {
  ((Launch)dlsym(call.f->owner->library, "launch_on_cpu"))(call.f->code, call.grid[0], call.grid[1], call.grid[2],
                                                           call.threads, call.pointers);
}
CUresult cuLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream stream, void** parameters, void** extra) {
  if (by != 1 || bz != 1 || shared || !stream || extra || bx > 1024 || gy > 65535 || gz > 65535) return INVALID_VALUE;
  Call call = {f, {gx, gy, gz}, bx, {}};
  for (int i = 0; i < f->arguments; ++i) call.pointers[i] = (void*)(uintptr_t)*(CUdeviceptr*)parameters[i];
  if (stream->capturing) stream->graph.calls.push_back(call); else run(call);
  return OK;
}
CUresult cuStreamCreate(CUstream* stream, unsigned flags) { *stream = new Stream{}; return flags ? INVALID_VALUE : OK; }
CUresult cuStreamBeginCapture_v2(CUstream stream, int mode) {
  if (stream->capturing || mode < 0 || mode > 2) return INVALID_VALUE;
  stream->capturing = true;
  stream->graph = {};
  return OK;
}
CUresult cuStreamEndCapture(CUstream stream, Graph** graph) {
  if (!stream->capturing) return INVALID_VALUE;
  stream->capturing = false;
  *graph = new Graph(stream->graph);
  return OK;
}
CUresult cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long flags) {
  *executable = new Graph(*graph);
  return flags ? INVALID_VALUE : OK;
}
CUresult cuGraphLaunch(Graph* executable, CUstream stream) {
  if (!current || stream->capturing) return INVALID_VALUE;
  for (Call& call : executable->calls) run(call);
  return OK;
}
CUresult cuGraphDestroy(Graph* graph) { delete graph; return OK; }
CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == NOT_FOUND ? "named symbol not found" : "invalid argument";
  return OK;
}
}
