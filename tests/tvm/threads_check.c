/* Drives native/threads.c without TVM: every thread counts in every round, and looks after each barrier. */
#include "threads.c"

#include <string.h>
#include <sys/wait.h>

static _Thread_local char raised[64];
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) {
  (void)message;
  snprintf(raised, sizeof raised, "%s", kind);
}

static int failures;
static void check(int right, const char *what) {
  if (!right) fprintf(stderr, "wrong: %s\n", what), failures++;
}

typedef struct { int rounds, fails, threads; int counts[MOST]; int late; } Data;
typedef int (*Launch)(Body, void *, int);
typedef int (*Barrier)(int, Group *);

/* Counts are plain ints: the barriers alone order them, which a race detector checks. */
static int count(int thread, Group *group, void *argument) {
  Data *data = argument;
  if (thread == 0) data->threads = group->threads;
  for (int round = 1; round <= data->rounds; round++) {
    data->counts[thread] = round;
    ((Barrier)__TVMBackendParallelBarrier)(thread, group);
    for (int other = 0; other < group->threads; other++)
      if (data->counts[other] != round && thread == 0) data->late++;
    ((Barrier)__TVMBackendParallelBarrier)(thread, group);
  }
  return thread == data->fails ? -1 : 0;
}

static int go(Data *data, int rounds, int threads) {
  *data = (Data){.rounds = rounds, .fails = -1};
  return ((Launch)__TVMBackendParallelLaunch)(count, data, threads);
}

static int brief(Data *data, int rounds) { /* a short loop */
  *data = (Data){.rounds = rounds, .fails = -1};
  int status = launch(&own, count, data, -1);
  check(status == 0 && !data->late, "a short loop");
  return data->threads;
}

static int64_t say(int64_t threads, int64_t pool) {
  Any arguments[] = {{1, 0, threads}, {1, 0, pool}}, result = {0};
  check(__tvm_ffi_tern_threads(NULL, arguments, 2, &result) == 0, "tern_threads succeeds");
  return result.number;
}

static int inside(int thread, Group *group, void *argument) { /* a parallel loop in a parallel loop */
  (void)group;
  return thread == 0 ? go(argument, 2, 0) : 0;
}

static void *caller(void *argument) {
  say((int64_t)(intptr_t)argument, 0);
  for (int i = 0; i < 300; i++) {
    Data data;
    check(go(&data, 3, 0) == 0 && !data.late, "callers at the same time");
    check(data.threads == (int)(intptr_t)argument || data.threads == 1, "a second caller runs alone");
  }
  return NULL;
}

int main(void) {
  Data data;
  setenv("TVM_NUM_THREADS", "3", 1);
  check(go(&data, 2, 0) == 0 && data.threads == 3, "the number of the environment");
  check((Pool *)(intptr_t)say(4, 0) == &own, "the pool's address");
  for (int i = 0; i < 2000; i++) {
    int threads = i % 5, rounds = i % 7;
    check(go(&data, rounds, threads) == 0, "launch succeeds");
    check(!data.late, "barriers hold");
    check(data.threads == (threads ? threads : 4), "as many threads as asked for");
    for (int t = 0; t < MOST; t++) check(data.counts[t] == (t < data.threads ? rounds : 0), "who ran");
    if (i % 400 == 0) usleep(5000); /* they sleep by then */
  }
  for (int times = 0; times < 5; times++) {
    for (int i = 1; i < own.started; i++)
      while (!atomic_load(&own.workers[i].asleep)) usleep(1000);
    check(brief(&data, 3) == 1, "one short loop wakes no threads");
    int many = 1;
    while (brief(&data, times) == 1 && many < 100000) many++; /* a pause of the program starts the count anew */
    check(data.threads == 4 && many >= ENOUGH, "many short loops have all threads");
    check(go(&data, 3, 0) == 0 && data.threads == 4, "a long loop after them");
  }
  say(FEW + 2, 0);
  while (brief(&data, 1) == 1);
  check(data.threads == FEW, "short loops have few threads");
  say(2, 0);
  check(go(&data, 2, 0) == 0 && data.threads == 2, "fewer threads than before");
  say(0, 0);
  check(go(&data, 2, 9) == 0 && data.threads == 2, "never more than was said");
  check(((Launch)__TVMBackendParallelLaunch)(inside, &data, 0) == 0 && data.threads == 1, "loops in loops");

  data = (Data){.rounds = 1, .fails = 1};
  check(((Launch)__TVMBackendParallelLaunch)(count, &data, 0) != 0 && !strcmp(raised, "RuntimeError"), "failures");
  Any wrong[] = {{1, 0, -1}, {1, 0, 0}}, result;
  check(__tvm_ffi_tern_threads(NULL, wrong, 2, &result) == -1 && !strcmp(raised, "ValueError"), "bad numbers");

  pthread_t others[3];
  for (int i = 0; i < 3; i++) pthread_create(&others[i], NULL, caller, (void *)(intptr_t)(2 + i));
  for (int i = 0; i < 3; i++) pthread_join(others[i], NULL);
  check(go(&data, 2, 0) == 0 && data.threads == 2, "a number is the calling thread's");

#ifndef NO_FORK
  pid_t child = fork();
  if (!child) {
    check(go(&data, 2, 0) == 0 && data.threads == 2, "a child starts its own threads");
    unloaded();
    _exit(failures);
  }
  int status = 0;
  waitpid(child, &status, 0);
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child");

  pthread_t busy; /* forks in the middle of another thread's loops */
  pthread_create(&busy, NULL, caller, (void *)(intptr_t)2);
  for (int i = 0; i < 20; i++) {
    usleep(50);
    if (!(child = fork())) {
      for (int j = 0; j < 50; j++) check(go(&data, 3, 0) == 0 && data.threads == 2 && !data.late, "loops of a child");
      _exit(failures);
    }
    waitpid(child, &status, 0);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child in the middle");
  }
  pthread_join(busy, NULL);
#endif

#ifdef CPUS /* as many CPUs as files of clocks */
  cpu_set_t set;
  check(frequency(0) == 1800000 && frequency(CPUS) == 0, "clocks");
  CPU_ZERO(&set);
  cpu_set_t allowed; /* another test may have pinned this process */
  check(sched_getaffinity(0, sizeof allowed, &allowed) == 0, "the process's CPUs");
  if (CPU_ISSET(0, &allowed) && CPU_ISSET(1, &allowed)) {
    check(fast_cpus(1, &set) == 1 && !CPU_ISSET(0, &set) && CPU_ISSET(1, &set), "the faster CPU");
    check(fast_cpus(2, &set) == 0, "all CPUs are needed");
  }
#endif
  return failures != 0;
}
