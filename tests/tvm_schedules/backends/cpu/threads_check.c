/* Drives native/threads.c without TVM: programs of loops that need each other's results, from several callers. */
#include "threads.c"

#include <sys/wait.h>

static _Thread_local char raised[64];
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) {
  (void)message;
  snprintf(raised, sizeof raised, "%s", kind);
}

static _Atomic int failures;
static void check(int right, const char *what) {
  if (!right) fprintf(stderr, "wrong: %s\n", what), failures++;
}

/* A loop adds to every number of one array the sum of some of the other, so that a job that is left out, done twice or
 * begun too early shows. The numbers are plain: only the order of the loops makes it right, which a race detector
 * checks. */
enum { NUMBERS = 200, LOOPS = 300 };
typedef struct {
  const uint32_t *from;
  uint32_t *to;
  int jobs, fails, nap; /* `fails`: the job that does, -1: none */
  uint32_t threads;
} Loop;
typedef struct { uint32_t numbers[2][NUMBERS]; Loop loops[LOOPS]; } Data;
typedef int (*Launch)(Body, void *, int);

static void job(const Loop *loop, int number) {
  uint32_t sum = 0;
  for (int i = 0; i < loop->jobs; i++) sum = sum * 31 + loop->from[(number + i) % NUMBERS];
  loop->to[number] += sum + 1;
}

static _Atomic int begun;
static void stop_in(int number) { /* one job waits until another thread has begun the other one, which sleeps then */
  int64_t start = now();
  if (number) { begun = 1; usleep(20000); }
  while (!number && !begun && now() - start < INT64_C(20000000000)) sched_yield();
}

static int ranges(int task, Group *group, void *argument) { /* as generated for tern_jobs() */
  Loop *loop = argument;
  int step = (int)(((int64_t)RANGES + group->threads - 1) / group->threads); /* as TVM's parallel loops */
  check(step == 1, "a task is a range");
  for (int number = task % LAST; number < task / LAST; number++) {
    if (loop->nap) stop_in(number);
    if (number == loop->fails) return -1;
    job(loop, number);
  }
  return 0;
}

static int tasks(int task, Group *group, void *argument) { /* a parallel loop that is none of ours */
  Loop *loop = argument;
  if (task == 0) loop->threads = (uint32_t)group->threads;
  int step = (loop->jobs + group->threads - 1) / group->threads;
  for (int number = task * step; number < (task + 1) * step && number < loop->jobs; number++) job(loop, number);
  return 0;
}

static uint32_t next(uint64_t *state) { return (uint32_t)((*state = *state * 6364136223846793005u + 1442695040888963407u) >> 33); }

/* Runs random loops and compares with the same in order. */
static void programs(uint64_t seed, int times) {
  Data *data = calloc(2, sizeof *data), *right = data + 1;
  for (int time = 0; time < times; time++) {
    int loops = 1 + (int)(next(&seed) % (time % 20 ? 30 : LOOPS)), alone = next(&seed) % 8 == 0;
    for (int i = 0; i < loops; i++) {
      int jobs = 1 + (int)(next(&seed) % (next(&seed) % 2 ? 5 : NUMBERS - 1));
      for (int which = 0; which < 2; which++) {
        Data *one = data + which;
        one->loops[i] = (Loop){one->numbers[i % 2], one->numbers[!(i % 2)], jobs, -1, 0, 0};
      }
      for (int number = 0; number < jobs; number++) job(&right->loops[i], number);
    }
    int status = 0;
    for (int i = 0; i < loops && !status; i++) {
      if (!alone) tern_jobs(data->loops[i].jobs, 1 + (int)(next(&seed) % 9));
      status = ((Launch)__TVMBackendParallelLaunch)(alone ? tasks : ranges, &data->loops[i], 0);
    }
    if (!alone) status |= tern_run();
    check(status == 0, "loops succeed");
    check(!memcmp(data->numbers, right->numbers, sizeof data->numbers), "every job once, and in order");
  }
  free(data);
}

static int64_t say(int64_t threads, int64_t pool) {
  Any arguments[] = {{1, 0, threads}, {1, 0, pool}}, result = {0};
  check(__tvm_ffi_tern_workers(NULL, arguments, 2, &result) == 0, "tern_workers succeeds");
  return result.number;
}

static void refused(Any threads, const char *kind) {
  Any arguments[] = {threads, {1, 0, 0}}, result;
  raised[0] = 0;
  check(__tvm_ffi_tern_workers(NULL, arguments, 2, &result) == -1 && !strcmp(raised, kind), "bad numbers are refused");
}

/* How many threads a loop has. */
static int threads_of(void) {
  Data *data = calloc(1, sizeof *data);
  data->loops[0] = (Loop){data->numbers[0], data->numbers[1], 7, -1, 0, 0};
  check(((Launch)__TVMBackendParallelLaunch)(tasks, data->loops, 0) == 0, "a loop succeeds");
  int threads = (int)data->loops[0].threads;
  free(data);
  return threads;
}

static int fails(int at, int jobs) {
  Data *data = calloc(1, sizeof *data);
  data->loops[0] = (Loop){data->numbers[0], data->numbers[1], jobs, at, 0, 0};
  tern_jobs(jobs, 1);
  int status = ((Launch)__TVMBackendParallelLaunch)(ranges, data->loops, 0);
  if (!status) status = tern_run();
  free(data);
  return status;
}

static int inside(int task, Group *group, void *argument) { /* loops in a job */
  (void)group;
  if (task == 0) *(int *)argument = threads_of();
  programs(7 + (uint64_t)task, 2);
  return 0;
}

static void *caller(void *argument) {
  say((int64_t)(intptr_t)argument, 0);
  programs((uint64_t)(intptr_t)argument, 100);
  return NULL;
}

static void never_rests(void) { SET(own.resting, 0); }

/* A caller that was held up by a thread that was stopped in its job goes on without others, for a time that depends. */
static void rests_after_a_stop(void) {
  Data *data = calloc(1, sizeof *data);
  int64_t until = 0;
  for (int i = 0; i < 20 && !until; i++) { /* this thread, too, may be stopped, and so see nothing */
    begun = 0;
    data->loops[0] = (Loop){data->numbers[0], data->numbers[1], 2, -1, 1, 0};
    tern_jobs(2, 1);
    check(((Launch)__TVMBackendParallelLaunch)(ranges, data->loops, 0) == 0 && tern_run() == 0, "jobs that sleep");
    until = GET(own.resting);
  }
  check(until > 0, "a stop is seen");
  check(threads_of() == 1 || now() > until, "callers do without others");
  check(own.rest > 0 && own.rest <= LONGEST_REST, "for a while");
  while (now() <= until) usleep(1000);
  check(threads_of() > 1, "and then no more");
  free(data);
}

/* How long: twice as long as the last time, but as short as ever after it went well. */
static void rests_longer_and_longer(void) {
  static Pool other, *pool = &other;
  int64_t time = 1000000000, lost = 1000000, last = 0;
  for (int i = 0; i < 40; i++) {
    time += lost;
    rest(pool, lost, time - lost, time);
    int64_t right = !last ? REST * lost : 2 * last < LONGEST_REST ? 2 * last : LONGEST_REST;
    check(pool->rest == right && GET(pool->resting) == time + right, "rests of growing length");
    last = pool->rest;
    time = GET(pool->resting);
  }
  pool->programs += CALLS + 1;
  time += 2 * WELL * lost;
  rest(pool, lost, time, time);
  check(pool->rest == REST * lost, "a short rest after it went well");
  pool->programs += CALLS + 1;
  time = pool->rested + lost;
  rest(pool, lost, time, time);
  check(pool->rest == 2 * REST * lost, "many programs in a short time");
  pool->programs += 2;
  time = pool->rested + 1000 * lost;
  rest(pool, lost, time, time);
  check(pool->rest == 4 * REST * lost, "few programs in a long time");
}

static void sleepy(void) { /* until all threads sleep */
  for (int i = 1; i < own.started; i++)
    while (!atomic_load(&own.of[i].asleep)) usleep(1000);
}

static void cpus(void) {
#ifdef CPUS /* as many CPUs as files of clocks */
  cpu_set_t set, allowed; /* another test may have pinned this process */
  check(frequency(0) == 1800000 && frequency(CPUS) == 0, "clocks");
  CPU_ZERO(&set);
  check(sched_getaffinity(0, sizeof allowed, &allowed) == 0, "the process's CPUs");
  if (CPU_ISSET(0, &allowed) && CPU_ISSET(1, &allowed)) {
    check(fast_cpus(1, &set) == 1 && !CPU_ISSET(0, &set) && CPU_ISSET(1, &set), "the faster CPU");
    check(fast_cpus(2, &set) == 0, "all CPUs are needed");
  }
#endif
}

int main(int count, char **words) {
  if (count > 1 && !strcmp(words[1], "quota")) {
    printf("%d\n", quota());
    return 0;
  }
  setenv("TVM_NUM_THREADS", "3", 1);
  check(usual_threads() == 3 && threads_of() == 3, "the number of the environment");
  check((Pool *)(intptr_t)say(4, 0) == &own, "the pool's address");
  for (int i = 0; i < 6; i++) {
    never_rests();
    say(1 + i % 5, 0);
    check(threads_of() == 1 + i % 5, "as many threads as asked for");
    programs((uint64_t)i, 60);
    if (i % 2) sleepy();
  }
  say(4, 0);
  rests_after_a_stop();
  rests_longer_and_longer();
  for (int times = 0; times < 5; times++) {
    never_rests();
    sleepy();
    check(enter(&own, 1) == 1, "one short loop wakes no threads");
    int many = 1, threads = 1;
    for (; many < 100000 && threads == 1; many++) /* a pause of the program starts the count anew */
      if ((threads = enter(&own, 1)) > 1) check(leave(&own) == 0, "a program without loops");
    check(threads == 4 && many >= ENOUGH, "many short loops have all threads");
    programs((uint64_t)times, 10);
    sleepy();
    for (many = 1, threads = 1; many < 10000 && threads == 1; many++) {
      if ((threads = enter(&own, 1)) > 1) check(leave(&own) == 0, "a program without loops");
      for (int64_t until = now() + 2 * OFTEN; threads == 1 && now() < until;); /* the loop, on a slow CPU */
      ended();
    }
    check(threads == 4 && many >= ENOUGH, "the time that loops take themselves does not count");
  }
  never_rests();
  say(FEW + 2, 0);
  int few = 1;
  while ((few = enter(&own, 1)) == 1);
  check(few == FEW && leave(&own) == 0, "short loops have few threads");
  say(0, 0);
  never_rests();
  check(threads_of() == FEW + 2, "the number stays");

  say(2, 0);
  never_rests();
  int within = 0;
  check(((Launch)__TVMBackendParallelLaunch)(inside, &within, 0) == 0 && within == 1, "loops in loops");
  for (int at = 0; at < 4; at++) {
    never_rests();
    raised[0] = 0;
    check(fails(at, 4) != 0 && (at == 0 || !raised[0] || !strcmp(raised, "RuntimeError")), "failures");
    say(1, 0);
    check(fails(at, 4) != 0, "failures of one thread");
    say(2, 0);
    programs(3, 3);
  }
  Group group = {NULL, 2};
  check(((int (*)(int, Group *))__TVMBackendParallelBarrier)(0, &group) == -1, "there are no barriers");
  refused((Any){1, 0, -1}, "ValueError");
  refused((Any){1, 0, MOST + 1}, "ValueError");
  refused((Any){1, 0, INT64_MAX}, "ValueError");
  refused((Any){3, 0, 2}, "TypeError"); /* a floating-point number */

  pthread_t others[3];
  for (int i = 0; i < 3; i++) pthread_create(&others[i], NULL, caller, (void *)(intptr_t)(2 + i));
  for (int i = 0; i < 3; i++) pthread_join(others[i], NULL);
  never_rests();
  check(threads_of() == 2, "a number is the calling thread's");

#ifndef NO_FORK
  pid_t child = fork();
  if (!child) {
    failures = 0;
    check(threads_of() == 2, "a child starts its own threads");
    programs(1, 20);
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
      failures = 0;
      check(threads_of() == 2, "loops of a child");
      programs(1, 5);
      _exit(failures);
    }
    waitpid(child, &status, 0);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child in the middle");
  }
  pthread_join(busy, NULL);
#endif
  cpus();
  return failures != 0;
}
