/* Threads for the parallel loops of a compiled network, linked into its library.
 *
 * They take the place of TVM's pool, in which every thread has a part of a loop of its own and all wait for the last:
 * where CPUs are shared with other programs, that one often does not run. Here the jobs of a loop are taken. Each
 * thread begins with a share of its own, as near in memory to the one of the loop before as can be, and goes on with
 * what others have not begun. So a thread that does not run costs nothing, unless it was stopped in the middle of a
 * job; when that happens, the next calls do without the others for a while.
 *
 * The caller is thread 0. It writes down several loops, a program, and then all threads go through it by themselves; a
 * loop begins when all jobs of the one before are done. One caller at a time has the pool: a second one, and one inside
 * of a job, runs all by itself. Libraries of one process can share one pool, so that threads of several do not wait on
 * the same CPU.
 *
 * A thread that is late may still look at a program when it is over and the next one is being written. What it reads
 * then does no harm: it holds the caller up, and uses the caller's memory, only after it has taken a job, and it gets
 * none of an old program (see take() and read_step()).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "cpus.h"
#if defined(__linux__) && !defined(NO_FUTEX)
#define FUTEX 1 /* elsewhere threads sleep by the means of POSIX */
#include <linux/futex.h>
#include <sys/syscall.h>
#else
#define FUTEX 0
#endif

/* The interface of generated code: tvm/runtime/c_backend_api.h and tvm/ffi/c_api.h of TVM 0.27. */
typedef struct { void *sync; int32_t threads; } Group;
typedef int (*Body)(int task, Group *group, void *data);
typedef struct { int32_t type; uint32_t zero; int64_t number; } Any;
extern void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);

#ifndef WAKES /* whether the library's loops are long enough to wake threads for each */
#define WAKES 1
#endif
enum {
  MOST = 128,          /* threads */
  STEPS = 128,         /* loops of a program; the next ones are another program */
  RANGES = 1 << 30,    /* tasks of a loop whose task is a range of jobs: first + LAST * last */
  LAST = 1 << 15,
  GLANCES = 32,        /* looks at a line without a pause: most waits are over by then */
  PATIENCE = 100,      /* looks before jobs of a thread that is there are taken: it needs its line to take them itself */
  WATCHES = 4000,      /* looks with pauses, some 0.1 ms */
  PERIODS = 10,        /* that often, for a thread that runs a long job */
  YIELDING = 1000000,  /* nanoseconds that an idle thread yields before it sleeps */
  FEW = 4,             /* threads for a short loop at most: it is over before more have begun */
  OFTEN = 100000,      /* nanoseconds from the end of one short loop to the next that are not long */
  ENOUGH = 20,         /* short loops in a row from which they are worth waking threads for: it takes 50 microseconds */
  AGAIN = 500000,      /* nanoseconds until threads that fell asleep in a program are woken for its next loops */
  REST = 2,            /* a caller that was held up does without others for so many times as long, and for twice as
                          long as the last time if meanwhile it did not go well */
  WELL = 10,           /* for so many times as long as it was held up, */
  CALLS = 100,         /* and for so many programs; */
  LONGEST_REST = 2000000000 /* nanoseconds */
};
#define LINE _Alignas(128) /* two lines of 64 bytes are fetched together by some CPUs */

typedef struct { /* atomic, as late threads read them while they are written */
  _Atomic(Body) body;
  _Atomic(void *) data;
  _Atomic int32_t jobs;
  _Atomic int ranges;   /* whether a task is a range of jobs */
  _Atomic int32_t least; /* jobs that are worth taking by themselves */
  _Atomic uint64_t end; /* jobs of the program up to the end of this loop */
} Step;

typedef struct {
  LINE _Atomic uint64_t taken; /* of this thread's share: loop << 16 | jobs that are taken, by anybody */
  _Atomic int holds;           /* whether it has jobs that are not finished */
  LINE _Atomic uint64_t done;  /* written by this thread alone: jobs that it has finished, ever */
  _Atomic uint64_t here;       /* the program that it is in */
  LINE _Atomic uint64_t call;  /* written by the caller: program << 8 | how often it called for it */
  _Atomic int asleep;
  pthread_t thread;
} Thread;

typedef struct Pool Pool;
struct Pool {
  /* What other libraries, perhaps of other versions, use: these three. */
  int (*enter)(Pool *, int brief);
  void (*add)(Pool *, Body, void *data, int jobs, int least, int ranges);
  int (*leave)(Pool *);
  atomic_flag busy;
  int started;       /* threads, with the caller */
  int count;         /* loops that are written down */
  _Atomic int64_t last; /* when a short loop that found threads asleep last began or ended, in nanoseconds */
  int often;         /* how many times in a row it was not long before that */
  int64_t woken;     /* when threads were last woken in the middle of a program */
  int64_t rest, rested; /* how long callers last did without others, and until when */
  uint64_t rested_at;   /* the program before that */
  int times;            /* how many times as long as they were held up */
  _Atomic int64_t resting; /* until when they do now, 0: they do not */
  _Atomic int stop;
  LINE _Atomic uint64_t program; /* number of the one that runs, 0 between them */
  uint64_t programs;
  _Atomic uint64_t first; /* number of its first loop; they are counted on for ever */
  _Atomic uint64_t before; /* jobs that its threads had done before it */
  _Atomic int steps, threads;
  LINE _Atomic int failed;
  _Atomic int left; /* whether threads have given up waiting in it */
  LINE _Atomic int waiting; /* whether the caller sleeps until jobs are done */
  Step program_steps[STEPS];
  Thread of[MOST];
};

static int enter(Pool *pool, int brief);
static void add(Pool *pool, Body body, void *data, int jobs, int least, int ranges);
static int leave(Pool *pool);
static Pool own; /* of zeros, so that it takes no bytes in the file */
static Pool *_Atomic used = &own;
static _Thread_local int wanted; /* threads for the loops of the calling thread; 0 before it has said */
static _Thread_local int alone;  /* whether the calling thread runs a short loop alone, as others of its own pool sleep */

#define GET(value) atomic_load_explicit(&(value), memory_order_relaxed)
#define SET(value, to) atomic_store_explicit(&(value), to, memory_order_relaxed)
#define ACQUIRE(value) atomic_load_explicit(&(value), memory_order_acquire)
#define RELEASE(value, to) atomic_store_explicit(&(value), to, memory_order_release)

/* -- waiting ------------------------------------------------------------------------------------------------------ */
static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb"); /* "yield" does nothing on most cores */
#endif
}

/* nap() sleeps while the word is 1, rouse() makes it 0 first; nap() may return sooner. */
#if FUTEX
static void nap(_Atomic int *word) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0); }

static void rouse(_Atomic int *word) {
  if (atomic_load(word) && atomic_exchange(word, 0)) syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
#else
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void nap(_Atomic int *word) {
  pthread_mutex_lock(&mutex);
  while (atomic_load(word)) pthread_cond_wait(&changed, &mutex);
  pthread_mutex_unlock(&mutex);
}

static void rouse(_Atomic int *word) {
  if (!atomic_load(word)) return;
  pthread_mutex_lock(&mutex);
  atomic_store(word, 0);
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
}
#endif

static int64_t nanoseconds(clockid_t clock) {
  struct timespec time;
  if (clock_gettime(clock, &time)) return 0;
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static int64_t now(void) { return nanoseconds(CLOCK_MONOTONIC); }

/* -- a program -----------------------------------------------------------------------------------------------------*/
/* Takes some of what is left of a share of `size` jobs, half of it and at least so many; how many, and the first one.
 *
 * The number of the loop only ever grows in `taken`. Where it is greater, the loop is over; where it is less, nobody has
 * taken any of this share, as no loop ends before all of its jobs are done. So who succeeds here is in a loop that is
 * not over, and it will not be before he says that he is done. */
static int take(Thread *thread, uint64_t loop, int size, int least, int *begin) {
  uint64_t taken = GET(thread->taken);
  for (;;) {
    uint64_t at = taken >> 16;
    int first = at == loop ? (int)(taken & 0xffff) : at < loop ? 0 : size;
    if (first >= size) return 0;
    int rest = size - first, half = (rest + 1) / 2, some = half > least ? half : least < rest ? least : rest;
    if (atomic_compare_exchange_weak_explicit(&thread->taken, &taken, loop << 16 | (uint64_t)(first + some),
                                              memory_order_acq_rel, memory_order_relaxed)) {
      *begin = first;
      return some;
    }
  }
}

typedef struct { /* of one thread in one program */
  Pool *pool;
  Thread *self;
  uint64_t program, first, before, done;
  int me, threads, steps;
  /* of the loop that it is in */
  Body body;
  void *data;
  int jobs, ranges, least;
  uint64_t loop, end;
} Part;

/* Whether the program still runs. What was read before, by acquire, is of this program if it does: the next one is
 * written, by release, after its number is gone. */
static int runs(const Part *part) { return GET(part->pool->program) == part->program; }

static int read_step(Part *part, int index) {
  Step *step = &part->pool->program_steps[index];
  part->body = ACQUIRE(step->body);
  part->data = ACQUIRE(step->data);
  part->jobs = ACQUIRE(step->jobs);
  part->ranges = ACQUIRE(step->ranges);
  part->least = ACQUIRE(step->least);
  part->end = part->before + ACQUIRE(step->end);
  part->loop = part->first + (uint64_t)index;
  if (index + 1 < part->steps) { /* what the caller has written is in its cache; the next job need not wait for it */
    char *next = GET(step[1].data);
    __builtin_prefetch(next);
    __builtin_prefetch(next + 64);
  }
  return runs(part);
}

static int run(Body body, void *data, int begin, int end, int jobs, int ranges) {
  Group group = {NULL, ranges ? RANGES : jobs};
  if (ranges) return body(begin + LAST * end, &group, data);
  int status = 0;
  for (; begin < end && !status; begin++) status = body(begin, &group, data);
  return status;
}

/* Does jobs of a thread's share until none are left. */
static void work_on(Part *part, int owner, int least) {
  Thread *self = part->self;
  int each = (part->jobs + part->threads - 1) / part->threads, start = each * owner, first;
  int size = part->jobs - start < each ? part->jobs - start : each;
  for (int some; size > 0 && (some = take(&part->pool->of[owner], part->loop, size, least, &first));) {
    SET(self->holds, 1);
    first += start;
    if (!GET(part->pool->failed) && run(part->body, part->data, first, first + some, part->jobs, part->ranges))
      SET(part->pool->failed, part->me ? -1 : 1);
    SET(self->holds, 0);
    RELEASE(self->done, part->done += (uint64_t)some);
  }
}

/* Whether all jobs of the loop are done. Jobs of later loops are counted only after some thread has seen that. */
static inline int complete(const Part *part) {
  uint64_t sum = 0;
  for (int i = 0; i < part->threads; i++) sum += ACQUIRE(part->pool->of[i].done);
  return sum >= part->end;
}

static void work_for_others(Part *part, int absent) {
  for (int i = 1; i < part->threads; i++) {
    int other = (part->me + i) % part->threads;
    if (!absent) work_on(part, other, part->least);
    else if (GET(part->pool->of[other].here) != part->program) work_on(part, other, part->jobs);
  }
}

typedef struct { int held; int64_t ran; } Watch; /* of a thread: whether it had jobs, and how long it had run */

/* How long threads that had jobs did not run since they were looked at, `span` nanoseconds ago: the worst of them. */
static int64_t stopped(Pool *pool, int threads, int64_t span, Watch *watches) {
  int64_t worst = 0;
  for (int i = 1; i < threads; i++) {
    Watch *watch = &watches[i];
    clockid_t clock;
    if (pthread_getcpuclockid(pool->of[i].thread, &clock)) continue;
    int64_t ran = nanoseconds(clock), lost = span - (ran - watch->ran);
    if (watch->held && lost > worst) worst = lost;
    *watch = (Watch){GET(pool->of[i].holds), ran};
  }
  return worst;
}

/* Callers do without others for a while. Held up now and then, they are still faster with them. */
static void rest(Pool *pool, int64_t lost, int64_t begun, int64_t time) {
  int well = begun - pool->rested > WELL * lost && pool->programs - pool->rested_at > CALLS;
  pool->times = well || !pool->times ? REST : pool->rest < LONGEST_REST ? 2 * pool->times : pool->times;
  pool->rest = lost * pool->times < LONGEST_REST ? lost * pool->times : LONGEST_REST;
  pool->rested = time + pool->rest;
  pool->rested_at = pool->programs;
  SET(pool->resting, pool->rested);
}

static int rests(Pool *pool) {
  int64_t until = GET(pool->resting);
  if (!until) return 0;
  if (now() < until) return 1;
  SET(pool->resting, 0);
  return 0;
}

/* The caller waits for long: it watches threads that run, and sleeps until others do. */
static void wait_long(Part *part) {
  Pool *pool = part->pool;
  Watch watches[MOST] = {0};
  int64_t begun = now(), time = begun, lost = 0;
  stopped(pool, part->threads, 0, watches);
  for (int periods = 0; !complete(part); periods++) {
    int64_t since = time;
    for (int looks = 0; looks < WATCHES && !complete(part); looks++) relax();
    int64_t gone = stopped(pool, part->threads, (time = now()) - since, watches);
    lost += gone;
    if (gone < OFTEN / 2 && periods < PERIODS) continue;
    atomic_store(&pool->waiting, 1); /* sequentially consistent, as in next_call(): one of the two sees the other */
    if (!complete(part)) nap(&pool->waiting);
    SET(pool->waiting, 0);
    since = time;
    lost += stopped(pool, part->threads, (time = now()) - since, watches);
  }
  if (lost > OFTEN / 2) rest(pool, lost, begun, time);
}

/* Waits until the loop is over; a thread that is not the caller gives up when that takes long, or the program ends. */
static int wait_for_all(Part *part) {
  if (complete(part)) return 1;
  work_for_others(part, 1);
  for (int looks = 0; !complete(part); looks++) {
    if (looks == PATIENCE) work_for_others(part, 0);
    if (looks > GLANCES) relax();
    if (part->me) {
      rouse(&part->pool->waiting);
      if (looks >= WATCHES || !runs(part)) return 0;
    } else if (looks >= WATCHES) {
      wait_long(part);
    }
  }
  return 1;
}

/* Calls for a thread, which may sleep. */
static void call_for(Thread *thread, uint64_t call) {
  atomic_store(&thread->call, call); /* sequentially consistent, as in next_call(): one of the two sees the other */
  rouse(&thread->asleep);
}

/* Calls once more for threads that have given up waiting in this program, now and then for those that sleep. */
static void call_again(Pool *pool, int threads) {
  int wake = now() - pool->woken > AGAIN;
  SET(pool->left, 0);
  for (int i = 1; i < threads; i++) {
    Thread *thread = &pool->of[i];
    if (GET(thread->here) == GET(pool->program)) continue;
    if (!GET(thread->asleep) || wake) call_for(thread, GET(thread->call) + 1);
    else SET(pool->left, 1);
  }
  if (wake) pool->woken = now();
}

/* Takes part in a program, from its beginning; gives up where that means to wait for long. */
static void take_part(Pool *pool, int me, uint64_t program) {
  Part part = {.pool = pool, .self = &pool->of[me], .program = program, .me = me};
  part.first = ACQUIRE(pool->first);
  part.before = ACQUIRE(pool->before);
  part.steps = ACQUIRE(pool->steps);
  part.threads = ACQUIRE(pool->threads);
  part.done = GET(part.self->done);
  if (!runs(&part)) return;
  SET(part.self->here, program);
  for (int i = 0; me && i < part.steps; i++) __builtin_prefetch(&pool->program_steps[i]);
  for (int i = 0; i < part.steps && read_step(&part, i); i++) {
    if (!me && GET(pool->left)) call_again(pool, part.threads);
    work_on(&part, me, part.least);
    if (wait_for_all(&part)) continue;
    SET(part.self->here, 0);
    if (runs(&part)) SET(pool->left, 1);
    return;
  }
}

/* -- the pool ----------------------------------------------------------------------------------------------------- */
/* Waits until `call` is another than `seen`; what it is then, 0 for the end of the pool. */
static uint64_t next_call(Pool *pool, Thread *thread, uint64_t seen) {
  int64_t start = 0;
  for (int looks = 0;; looks++) {
    uint64_t call = ACQUIRE(thread->call);
    if (call != seen) return call;
    if (GET(pool->stop)) return 0;
    rouse(&pool->waiting); /* all of this thread's jobs are done */
    if (looks < WATCHES) {
      relax();
    } else if (!start) {
      start = now();
    } else if (now() - start < YIELDING) {
      sched_yield();
    } else {
      atomic_store(&thread->asleep, 1); /* sequentially consistent, as in call_for() */
      if (atomic_load(&thread->call) == seen && !atomic_load(&pool->stop)) {
        rouse(&pool->waiting);
        nap(&thread->asleep);
      }
      SET(thread->asleep, 0);
      looks = 0, start = 0;
    }
  }
}

static void *work(void *argument) {
  Thread *thread = argument;
  Pool *pool = &own; /* the library that starts a thread has its code */
  uint64_t seen = 0;
  while ((seen = next_call(pool, thread, seen))) take_part(pool, (int)(thread - pool->of), seen >> 8);
  return NULL;
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
    Thread *thread = &pool->of[pool->started];
    if (pthread_create(&thread->thread, NULL, work, thread)) break;
#ifdef __linux__
    if (choose) pthread_setaffinity_np(thread->thread, sizeof set, &set);
#endif
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Whether a short loop is faster without the other threads: some sleep, and there were no others like it just now. */
static int better_alone(Pool *pool, int threads) {
  int sleepers = 0;
  for (int i = 1; i < threads; i++) sleepers += GET(pool->of[i].asleep);
  if (!sleepers) return 0;
  int64_t time = now();
  pool->often = time - GET(pool->last) < OFTEN ? pool->often + 1 : 0;
  SET(pool->last, time);
  return alone = pool->often < ENOUGH;
}

/* A loop is over that better_alone() may have had run alone: what matters is the time between loops, not theirs. */
static void ended(void) {
  if (alone) SET(own.last, now());
  alone = 0;
}

/* Has the pool for the calling thread until leave(), if the number of threads that it returns is more than 1. */
static int enter(Pool *pool, int brief) {
  alone = 0;
  if (!wanted) wanted = usual_threads();
  int threads = wanted < MOST ? wanted : MOST;
  if (brief && threads > FEW) threads = FEW;
  if (threads <= 1 || rests(pool) || atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire)) return 1;
  if (pool->started < threads) start(pool, threads);
  if (threads > pool->started) threads = pool->started;
  if (threads <= 1 || (brief && better_alone(pool, threads))) {
    atomic_flag_clear_explicit(&pool->busy, memory_order_release);
    return 1;
  }
  for (int i = 1; i < threads; i++) rouse(&pool->of[i].asleep); /* that takes longer than to write the program down */
  SET(pool->threads, threads);
  SET(pool->failed, 0);
  return threads;
}

/* Runs what is written down, with the other threads that come in time. */
static void run_program(Pool *pool) {
  int threads = GET(pool->threads);
  uint64_t before = 0, program = ++pool->programs;
  for (int i = 0; i < threads; i++) before += GET(pool->of[i].done);
  RELEASE(pool->before, before);
  RELEASE(pool->first, GET(pool->first) + (uint64_t)GET(pool->steps));
  RELEASE(pool->steps, pool->count);
  SET(pool->left, 0);
  RELEASE(pool->program, program);
  for (int i = 1; i < threads; i++) call_for(&pool->of[i], program << 8);
  take_part(pool, 0, program);
  SET(pool->program, 0); /* before anything of the next one is written, which is by release */
  pool->count = 0;
}

/* Writes a loop down. */
static void add(Pool *pool, Body body, void *data, int jobs, int least, int ranges) {
  if (pool->count == STEPS) run_program(pool);
  Step *step = &pool->program_steps[pool->count];
  uint64_t before = pool->count ? GET(step[-1].end) : 0;
  RELEASE(step->body, body);
  RELEASE(step->data, data);
  RELEASE(step->jobs, jobs);
  RELEASE(step->ranges, ranges);
  RELEASE(step->least, least);
  RELEASE(step->end, before + (uint64_t)jobs);
  pool->count++;
}

static int leave(Pool *pool) {
  if (pool->count) run_program(pool);
  int failed = GET(pool->failed);
  atomic_flag_clear_explicit(&pool->busy, memory_order_release);
  if (failed < 0) /* what the other thread knows of it stays there */
    TVMFFIErrorSetRaisedFromCStr("RuntimeError", "a thread of a parallel loop failed");
  return failed ? -1 : 0;
}

/* -- generated code calls these ----------------------------------------------------------------------------------- */
static _Thread_local struct { Pool *pool; int open, jobs, least; } mine; /* the program that the calling thread writes down */

/* The next parallel loop has so many jobs and takes ranges of them, of at least so many where there are so many left;
 * it need not be run before tern_run(). */
int32_t tern_jobs(int32_t jobs, int32_t least) {
  if (!mine.open) {
    Pool *pool = GET(used);
    mine.pool = pool->enter(pool, !WAKES) > 1 ? pool : NULL;
    mine.open = 1;
  }
  mine.jobs = jobs;
  mine.least = least;
  return 0;
}

/* Runs the loops since the first tern_jobs(). */
int32_t tern_run(void) {
  Pool *pool = mine.open ? mine.pool : NULL;
  mine.open = 0;
  if (pool) return pool->leave(pool);
  ended();
  return 0;
}

static int launch(Body body, void *data, int tasks) {
  int jobs = mine.jobs;
  mine.jobs = 0; /* there may be a loop in a job, which is none of the program */
  if (jobs && mine.pool) {
    mine.pool->add(mine.pool, body, data, jobs, mine.least, 1);
    return 0;
  }
  if (jobs) {
    int status = run(body, data, 0, jobs, jobs, 1);
    if (status) mine.open = 0; /* there will be no tern_run() */
    return status;
  }
  Pool *pool = GET(used);
  int threads = pool->enter(pool, !WAKES);
  if (threads <= 1) {
    int status = run(body, data, 0, tasks ? tasks : 1, tasks ? tasks : 1, 0);
    ended();
    return status;
  }
  pool->add(pool, body, data, tasks ? tasks : threads, 1, 0);
  return pool->leave(pool);
}

static int barrier(int task, Group *group) { /* of loops in a loop, which only TVM's own pool can run */
  (void)task, (void)group;
  TVMFFIErrorSetRaisedFromCStr("RuntimeError", "barriers need threads that run at the same time");
  return -1;
}

/* tern_workers(count, pool) -> the library's own pool: from now on the calling thread's loops use so many threads of
 * the library's own pool (0: as before), and the library that pool (0: as before), which another one returned and which
 * must stay loaded. Not while a parallel loop of the library runs, if the pool is another. */
__attribute__((visibility("default"))) int __tvm_ffi_tern_workers(void *self, const Any *arguments, int32_t count,
                                                                   Any *result) {
  enum { INTEGER = 1 };
  (void)self;
  if (count != 2 || arguments[0].type != INTEGER || arguments[1].type != INTEGER) {
    TVMFFIErrorSetRaisedFromCStr("TypeError", "tern_workers takes a number of threads and a pool or 0, both integers");
    return -1;
  }
  if (arguments[0].number < 0 || arguments[0].number > MOST) {
    char message[96];
    snprintf(message, sizeof message, "the number of threads must be between 0 and %d, got %lld", MOST,
             (long long)arguments[0].number);
    TVMFFIErrorSetRaisedFromCStr("ValueError", message);
    return -1;
  }
  if (arguments[0].number) wanted = (int)arguments[0].number;
  Pool *pool = (Pool *)(intptr_t)arguments[1].number;
  if (pool) SET(used, pool);
  *result = (Any){INTEGER, 0, (int64_t)(intptr_t)&own};
  return 0;
}

static void forked(void) { /* the child of a fork has none of the threads, which may have been in a loop */
  memset((void *)&own, 0, sizeof own);
#if !FUTEX
  pthread_mutex_init(&mutex, NULL);
  pthread_cond_init(&changed, NULL);
#endif
  own.enter = enter;
  own.add = add;
  own.leave = leave;
  own.started = 1;
}

__attribute__((constructor)) static void loaded(void) {
  forked();
  pthread_atfork(NULL, NULL, forked);
}

__attribute__((destructor)) static void unloaded(void) { /* its code goes, so its threads go before */
  atomic_store(&own.stop, 1);
  for (int i = 1; i < own.started; i++) {
    rouse(&own.of[i].asleep);
    pthread_join(own.of[i].thread, NULL);
  }
}

__attribute__((visibility("hidden"))) void *__TVMBackendParallelLaunch = (void *)launch;
__attribute__((visibility("hidden"))) void *__TVMBackendParallelBarrier = (void *)barrier;
