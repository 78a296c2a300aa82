// CUDA C on the CPU, enough for generated kernels: one block at a time, each of its threads a context that runs until
// it reaches a barrier or a shuffle. Compiled as C++ in front of the kernels' own source.
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct Index { int x, y, z; };
static Index blockIdx, threadIdx;

#define __global__
#define __shared__ static
#define __launch_bounds__(n)
#define alignas(n) __attribute__((aligned(n)))

static const int MOST = 1024, STACK = 64 * 1024;
static ucontext_t scheduler, contexts[MOST];
static bool ended[MOST];
static unsigned slots[MOST];
static char* stacks;
static int current;

static inline int max(int a, int b) { return a > b ? a : b; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline float max(float a, float b) { return a > b ? a : b; }
static inline float min(float a, float b) { return a < b ? a : b; }

static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline float __int_as_float(int a) { float f; memcpy(&f, &a, 4); return f; }

static void yield_thread() { int me = current; swapcontext(&contexts[me], &scheduler); }
#define __syncthreads() yield_thread()

static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 255u) * (b >> i & 255u);
  return c;
}

static unsigned __shfl_down_sync(unsigned, unsigned value, int down, int width) {
  int me = current;
  slots[me] = value;
  yield_thread();
  unsigned found = me % width + down < width ? slots[me + down] : value;
  yield_thread();
  return found;
}

typedef void (*Kernel)(void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*);
static Kernel kernel;
static void** arguments;

static void thread_main() {
  void** a = arguments;
  kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13]);
  ended[current] = true;
}

extern "C" void launch_on_cpu(Kernel which, int gx, int gy, int gz, int threads, void** args) {
  if (!stacks) stacks = (char*)malloc((size_t)MOST * STACK);
  kernel = which;
  arguments = args;
  for (int z = 0; z < gz; ++z)
    for (int y = 0; y < gy; ++y)
      for (int x = 0; x < gx; ++x) {
        blockIdx = {x, y, z};
        for (int t = 0; t < threads; ++t) {
          ended[t] = false;
          getcontext(&contexts[t]);
          contexts[t].uc_stack.ss_sp = stacks + (size_t)t * STACK;
          contexts[t].uc_stack.ss_size = STACK;
          contexts[t].uc_link = &scheduler;
          makecontext(&contexts[t], thread_main, 0);
        }
        for (int running = threads; running;) {
          running = 0;
          for (int t = 0; t < threads; ++t) {
            if (ended[t]) continue;
            current = t;
            threadIdx = {t, 0, 0};
            swapcontext(&scheduler, &contexts[t]);
            running += !ended[t];
          }
        }
      }
}
