/* Threads for the parallel loops of a compiled network, linked into its library.
 *
 * They take the place of TVM's pool, whose waiting threads call sched_yield: a system call on the way to every start
 * and at every barrier, half a microsecond each, where a layer takes three. Here a thread that waits first watches a
 * cache line of its own, then yields, then sleeps. (TVM's runtime fills in the pointers at the end of this file when it
 * finds them in a library; these are hidden, so it does not.)
 *
 * The caller is thread 0. One caller at a time has the workers: a second one, and one inside of a parallel loop, runs
 * all by itself. Libraries of one process can share one pool, so that threads of several do not wait on the same CPU.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* The interface of generated code: tvm/runtime/c_backend_api.h and tvm/ffi/c_api.h of TVM 0.27. */
typedef struct { void *sync; int32_t threads; } Group;
typedef int (*Body)(int thread, Group *group, void *data);
typedef struct { int32_t type; uint32_t zero; int64_t number; } Any;
extern void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);

#ifndef CPU_FREQUENCY  /* tests have other files */
#define CPU_FREQUENCY "/sys/devices/system/cpu/cpu%d/cpufreq/cpuinfo_max_freq"
#endif
#ifndef WAKES /* whether the library's loops are long enough to wake threads for each */
#define WAKES 1
#endif
enum {
  MOST = 128,     /* threads */
  GLANCES = 32,   /* looks at a line without a pause: most waits at a barrier are over by then */
  WATCHES = 4000, /* looks with pauses, some 0.1 ms, before yielding */
  YIELDS = 2000,  /* yields, some 1 ms, before sleeping */
  FEW = 4,        /* threads for a short loop at most: it is over before more have begun */
  OFTEN = 100000, /* nanoseconds from one short loop to the next that are not long */
  ENOUGH = 20     /* short loops in a row from which they are worth waking threads for: it takes 50 microseconds */
};
#define LINE _Alignas(128) /* two lines of 64 bytes are fetched together by some CPUs */

typedef struct {
  LINE _Atomic uint64_t call; /* written by the caller: the launch to take part in, and what to do */
  Body body;
  void *data;
  int threads;
  uint64_t turn;
  LINE _Atomic uint64_t done; /* written by the worker: its last launch */
  int status;
  LINE _Atomic int asleep;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  pthread_t thread;
} Worker;

typedef struct { LINE _Atomic uint64_t turn; } Arrival; /* the last barrier that a thread has reached */
typedef struct { Arrival *arrivals; uint64_t turn; } Progress; /* of one thread, for its barriers */

typedef struct Pool Pool;
struct Pool {
  /* What other libraries, perhaps of other versions, use: these two. */
  int (*launch)(Pool *, Body, void *, int threads);
  int (*barrier)(int thread, Group *);
  atomic_flag busy;
  int started; /* threads, with the caller */
  uint64_t call, turn;
  int64_t last; /* when a short loop last found threads asleep, in nanoseconds */
  int often;    /* how many times in a row it was not long before that */
  _Atomic int stop;
  Worker workers[MOST];
  Arrival arrivals[MOST];
};

static int launch(Pool *pool, Body body, void *data, int threads);
static int barrier(int thread, Group *group);
static Pool own; /* of zeros, so that it takes no bytes in the file */
static Pool *_Atomic used = &own;
static _Thread_local int wanted; /* threads for the loops of the calling thread; 0 before it has said */

extern void *__TVMBackendParallelLaunch, *__TVMBackendParallelBarrier;

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb"); /* "yield" does nothing on most cores */
#endif
}

static inline void wait_for(_Atomic uint64_t *value, uint64_t least) {
  for (int looks = 0; atomic_load_explicit(value, memory_order_acquire) < least; looks++)
    if (looks >= WATCHES) sched_yield();
    else if (looks >= GLANCES) relax();
}

static int barrier(int thread, Group *group) {
  Progress *progress = group->sync;
  uint64_t turn = ++progress->turn;
  atomic_store_explicit(&progress->arrivals[thread].turn, turn, memory_order_release);
  for (int other = 0; other < group->threads; other++) wait_for(&progress->arrivals[other].turn, turn);
  return 0;
}

static int run(Arrival *arrivals, Body body, void *data, int thread, int threads, uint64_t *turn) {
  Progress progress = {arrivals, *turn};
  Group group = {&progress, threads};
  int status = body(thread, &group, data);
  *turn = progress.turn;
  return status;
}

/* Waits until `call` is another than `seen`; what it is then, 0 for the end of the pool. */
static uint64_t next_call(Pool *pool, Worker *worker, uint64_t seen) {
  for (int looks = 0; looks < WATCHES + YIELDS; looks++) {
    uint64_t call = atomic_load_explicit(&worker->call, memory_order_acquire);
    if (call != seen) return call;
    if (atomic_load_explicit(&pool->stop, memory_order_relaxed)) return 0;
    if (looks < WATCHES) relax();
    else sched_yield();
  }
  uint64_t call;
  pthread_mutex_lock(&worker->mutex);
  atomic_store(&worker->asleep, 1); /* sequentially consistent, as in wake_up(): one of the two sees the other */
  while ((call = atomic_load(&worker->call)) == seen && !atomic_load(&pool->stop))
    pthread_cond_wait(&worker->wake, &worker->mutex);
  atomic_store(&worker->asleep, 0);
  pthread_mutex_unlock(&worker->mutex);
  return call == seen ? 0 : call;
}

static void wake_up(Worker *worker) {
  if (!atomic_load(&worker->asleep)) return;
  pthread_mutex_lock(&worker->mutex);
  pthread_cond_signal(&worker->wake);
  pthread_mutex_unlock(&worker->mutex);
}

static void *work(void *argument) {
  Worker *worker = argument;
  Pool *pool = &own; /* the library that starts a thread has its code */
  int thread = (int)(worker - pool->workers);
  uint64_t seen = 0;
  while ((seen = next_call(pool, worker, seen))) {
    uint64_t turn = worker->turn;
    worker->status = run(pool->arrivals, worker->body, worker->data, thread, worker->threads, &turn);
    atomic_store_explicit(&worker->done, seen, memory_order_release);
  }
  return NULL;
}

/* The highest clock of a CPU in kHz, 0 where it is not known. */
static long frequency(int cpu) {
  char path[256];
  long value = 0;
  snprintf(path, sizeof path, CPU_FREQUENCY, cpu);
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  if (fscanf(file, "%ld", &value) != 1) value = 0;
  fclose(file);
  return value;
}

#ifdef __linux__
static int falling(const void *a, const void *b) {
  long x = *(const long *)a, y = *(const long *)b;
  return (x < y) - (x > y);
}

/* The CPUs for so many threads, where some are faster than others: the slowest of these would set the pace. */
static int fast_cpus(int threads, cpu_set_t *set) {
  long clocks[CPU_SETSIZE], sorted[CPU_SETSIZE];
  int count = 0;
  if (sched_getaffinity(0, sizeof *set, set)) return 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, set)) sorted[count++] = clocks[cpu] = frequency(cpu);
  qsort(sorted, count, sizeof *sorted, falling);
  if (threads >= count || sorted[0] == sorted[count - 1]) return 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, set) && clocks[cpu] < sorted[threads - 1]) CPU_CLR(cpu, set);
  return 1;
}
#endif

/* TVM_NUM_THREADS, or the CPUs that this process may use. */
static int usual(void) {
  const char *setting = getenv("TVM_NUM_THREADS");
  if (setting && atoi(setting) > 0) return atoi(setting);
#ifdef __linux__
  cpu_set_t set;
  if (!sched_getaffinity(0, sizeof set, &set)) return CPU_COUNT(&set);
#endif
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Starts the threads that are missing, as far as the system lets it. */
static void start(Pool *pool, int threads) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's threads */
#ifdef __linux__
  cpu_set_t set;
  int choose = fast_cpus(threads, &set);
#endif
  for (; pool->started < threads; pool->started++) {
    Worker *worker = &pool->workers[pool->started];
    atomic_store(&worker->call, 0);
    atomic_store(&worker->asleep, 0);
    pthread_mutex_init(&worker->mutex, NULL);
    pthread_cond_init(&worker->wake, NULL);
    if (pthread_create(&worker->thread, NULL, work, worker)) break;
#ifdef __linux__
    if (choose) pthread_setaffinity_np(worker->thread, sizeof set, &set);
#endif
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Whether a short loop is faster without the other threads: some sleep, and there were no others like it just now. */
static int better_alone(Pool *pool, int threads) {
  int sleepers = 0;
  for (int i = 1; i < threads; i++) sleepers += atomic_load_explicit(&pool->workers[i].asleep, memory_order_relaxed);
  if (!sleepers) return 0;
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  int64_t now = time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
  pool->often = now - pool->last < OFTEN ? pool->often + 1 : 0;
  pool->last = now;
  return pool->often < ENOUGH;
}

static int run_alone(Body body, void *data) {
  uint64_t turn = 0;
  Arrival arrival = {0};
  return run(&arrival, body, data, 0, 1, &turn);
}

/* Runs `body` in so many threads, 0 for all; -1 if the loop is a short one. */
static int launch(Pool *pool, Body body, void *data, int threads) {
  int brief = threads < 0;
  if (!wanted) wanted = usual();
  if (wanted > MOST) wanted = MOST;
  if (threads < 1 || threads > wanted) threads = wanted;
  if (brief && threads > FEW) threads = FEW;
  if (threads <= 1 || atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire))
    return run_alone(body, data);
  if (pool->started < threads) start(pool, threads);
  if (threads > pool->started) threads = pool->started;
  if (brief && better_alone(pool, threads)) {
    atomic_flag_clear_explicit(&pool->busy, memory_order_release);
    return run_alone(body, data);
  }
  uint64_t call = ++pool->call;
  for (int i = 1; i < threads; i++) {
    Worker *worker = &pool->workers[i];
    worker->body = body;
    worker->data = data;
    worker->threads = threads;
    worker->turn = pool->turn;
    atomic_store(&worker->call, call);
    wake_up(worker);
  }
  int status = run(pool->arrivals, body, data, 0, threads, &pool->turn);
  for (int i = 1; i < threads; i++) {
    wait_for(&pool->workers[i].done, call);
    if (pool->workers[i].status && !status) {
      status = -1; /* what the worker's own thread knows of it stays there */
      TVMFFIErrorSetRaisedFromCStr("RuntimeError", "a thread of a parallel loop failed");
    }
  }
  atomic_flag_clear_explicit(&pool->busy, memory_order_release);
  return status;
}

static int launch_used(Body body, void *data, int threads) {
  Pool *pool = atomic_load_explicit(&used, memory_order_relaxed);
  return pool->launch(pool, body, data, WAKES ? threads : -1);
}

/* tern_threads(count, pool) -> the library's own pool: from now on the calling thread's loops use so many threads of
 * the library's own pool (0: as before), and the library that pool (0: as before), which another one returned and which
 * must stay loaded. Not while a parallel loop of the library runs, if the pool is another. */
__attribute__((visibility("default"))) int __tvm_ffi_tern_threads(void *self, const Any *arguments, int32_t count,
                                                                   Any *result) {
  (void)self;
  if (count != 2 || arguments[0].number < 0) {
    TVMFFIErrorSetRaisedFromCStr("ValueError", "tern_threads takes a number of threads, at least 0, and a pool or 0");
    return -1;
  }
  if (arguments[0].number) wanted = (int)(arguments[0].number < MOST ? arguments[0].number : MOST);
  Pool *pool = (Pool *)(intptr_t)arguments[1].number;
  if (pool && pool != atomic_load(&used)) {
    atomic_store(&used, pool);
    __TVMBackendParallelBarrier = (void *)pool->barrier;
  }
  *result = (Any){1 /* an integer */, 0, (int64_t)(intptr_t)&own};
  return 0;
}

static void forked(void) { /* the child of a fork has none of the threads, which may have been in a loop */
  own.started = 1;
  own.turn = 0;
  for (int i = 0; i < MOST; i++) atomic_store(&own.arrivals[i].turn, 0);
  atomic_flag_clear(&own.busy);
}

__attribute__((constructor)) static void loaded(void) {
  own.launch = launch;
  own.barrier = barrier;
  own.started = 1;
  pthread_atfork(NULL, NULL, forked);
}

__attribute__((destructor)) static void unloaded(void) { /* its code goes, so its threads go before */
  atomic_store(&own.stop, 1);
  for (int i = 1; i < own.started; i++) {
    wake_up(&own.workers[i]);
    pthread_join(own.workers[i].thread, NULL);
  }
}

__attribute__((visibility("hidden"))) void *__TVMBackendParallelLaunch = (void *)launch_used;
__attribute__((visibility("hidden"))) void *__TVMBackendParallelBarrier = (void *)barrier;
