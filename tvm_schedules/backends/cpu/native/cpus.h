/* How many threads a process should have, and on which CPUs: a part of threads.c. */
#pragma once

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef CPU_FREQUENCY /* tests have other files */
#define CPU_FREQUENCY "/sys/devices/system/cpu/cpu%d/cpufreq/cpuinfo_max_freq"
#endif
#ifndef CGROUPS
#define CGROUPS "/sys/fs/cgroup"
#define OWN_CGROUPS "/proc/self/cgroup"
#endif

/* Reads up to two numbers; how many there were, "max" not being one. */
static int numbers_in(const char *path, long *first, long *second) {
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  int count = fscanf(file, "%ld %ld", first, second);
  fclose(file);
  return count < 0 ? 0 : count;
}

/* The highest clock of a CPU in kHz, 0 where it is not known. */
static long frequency(int cpu) {
  char path[256];
  long value, none;
  snprintf(path, sizeof path, CPU_FREQUENCY, cpu);
  return numbers_in(path, &value, &none) ? value : 0;
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

/* The CPUs' worth of time that the control group in a folder gives, -1 without a limit. Of 1.5 one: a second thread
 * would use the time up, and then all of them stand still until the next period. */
static int quota_of(const char *folder) {
  char path[1200];
  long quota, period;
  snprintf(path, sizeof path, "%s/cpu.max", folder); /* version 2 */
  if (numbers_in(path, &quota, &period) != 2) {
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder); /* version 1 */
    if (numbers_in(path, &quota, &period) != 1) return -1;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    long none;
    if (numbers_in(path, &period, &none) != 1) return -1;
  }
  return quota <= 0 || period <= 0 ? -1 : quota < period ? 1 : (int)(quota / period);
}

/* The least of the quotas of this process's control groups and of those that they are in, -1 without one. */
static int quota(void) {
  FILE *file = fopen(OWN_CGROUPS, "r");
  char line[1024], folder[1100];
  int least = -1;
  if (!file) return -1;
  while (fgets(line, sizeof line, file)) { /* number:controllers:/path */
    char *controllers = strchr(line, ':'), *path = controllers ? strchr(++controllers, ':') : NULL;
    if (!path) continue;
    *path++ = 0;
    path[strcspn(path, "\n")] = 0;
    int second = !*controllers; /* of version 2; of version 1 only the one that "cpu" is in matters */
    char among[1100];
    snprintf(among, sizeof among, ",%s,", controllers);
    if (!second && !strstr(among, ",cpu,")) continue;
    const char *mounts[] = {second ? "" : "/cpu", second ? "/unified" : "/cpu,cpuacct"};
    for (int mount = 0; mount < 2; mount++)
      for (size_t length = strlen(path);; ) { /* in a container the path may be the host's, and only the root is there */
        snprintf(folder, sizeof folder, "%s%s%.*s", CGROUPS, mounts[mount], (int)length, path);
        int found = quota_of(folder);
        if (found > 0 && (least < 0 || found < least)) least = found;
        if (!length) break;
        while (length && path[--length] != '/');
      }
  }
  fclose(file);
  return least;
}
#endif

/* TVM_NUM_THREADS, or the CPUs that this process may use, fewer where it may not use all of their time. */
static int usual_threads(void) {
  const char *setting = getenv("TVM_NUM_THREADS");
  long given = setting ? strtol(setting, NULL, 10) : 0;
  if (given > 0) return given < 1 << 20 ? (int)given : 1 << 20;
#ifdef __linux__
  cpu_set_t set;
  if (!sched_getaffinity(0, sizeof set, &set)) {
    int cpus = CPU_COUNT(&set), limit = quota();
    return limit > 0 && limit < cpus ? limit : cpus;
  }
#endif
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  return cpus > 0 ? (int)cpus : 1;
}
