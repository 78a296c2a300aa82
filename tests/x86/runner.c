/* Runs compiled networks on an emulated PC without an operating system: boot.S answers the few system calls that the
   C library makes. machine.py puts the networks into memory at TAPE as words of 64 bits and blobs that begin at
   multiples of 64, and finds the results on the disk: for each network a status, a message and the outputs. */
#define _GNU_SOURCE
#include <elf.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

enum { TAPE = 0x8000000, SECTOR = 512, DONE = 1, FAILED = 2, MOST = 64, MOST_AXES = 16 };

static struct { uint64_t status; char message[SECTOR - 8]; } result;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(result.message, sizeof result.message, format, arguments);
    va_end(arguments);
    result.status = FAILED;
}

/* -- what libraries import ---------------------------------------------------------------------------------------- */
static void raised(const char *kind, const char *message) { fail("%s: %s", kind, message); }
static void raised_parts(const char *kind, const char **parts, int32_t count)
{
    char text[300] = "";
    for (int32_t i = 0; i < count; ++i) strncat(text, parts[i], sizeof text - strlen(text) - 1);
    raised(kind, text);
}

static struct { uint64_t module, offset; char bytes[4096]; } locals; /* thread-local variables of the library that runs */
static void *local(const uint64_t *index) { return locals.bytes + index[1]; }
static void nothing(void) {}

/* A parallel loop of TVM's own, see tvm/runtime/c_backend_api.h: one task does all of it. */
typedef struct { void *sync; int32_t tasks; } Group;
static int in_one_task(int (*body)(int, Group *, void *), void *data, int tasks)
{
    (void)tasks;
    return body(0, &(Group){NULL, 1}, data);
}
static int barrier(int task, Group *group)
{
    (void)task, (void)group;
    return 0;
}
static void *workspace(int device, int number, uint64_t bytes, int code, int bits)
{
    (void)device, (void)number, (void)code, (void)bits;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}
static int give_back(int device, int number, void *memory)
{
    (void)device, (void)number;
    free(memory);
    return 0;
}

#define SAME(name) {#name, (void *)name}
extern int __isoc99_fscanf(FILE *, const char *, ...), __sched_cpucount(size_t, const cpu_set_t *);
extern int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *);
static const struct { const char *name; void *address; } known[] = {
    {"TVMFFIErrorSetRaisedFromCStr", (void *)raised}, {"TVMFFIErrorSetRaisedFromCStrParts", (void *)raised_parts},
    {"TVMBackendParallelLaunch", (void *)in_one_task}, {"TVMBackendParallelBarrier", (void *)barrier},
    {"TVMBackendAllocWorkspace", (void *)workspace},
    {"TVMBackendFreeWorkspace", (void *)give_back},
    {"__tls_get_addr", (void *)local}, {"__cxa_finalize", (void *)nothing}, {"__gmon_start__", (void *)nothing},
    {"_ITM_deregisterTMCloneTable", NULL}, {"_ITM_registerTMCloneTable", NULL},
    SAME(__isoc99_fscanf), SAME(__register_atfork), SAME(__sched_cpucount), SAME(clock_gettime), SAME(fclose),
    SAME(fgets), SAME(fopen), SAME(getenv), SAME(pthread_create), SAME(pthread_getcpuclockid), SAME(pthread_join),
    SAME(pthread_setaffinity_np), SAME(pthread_sigmask), SAME(qsort), SAME(sched_getaffinity), SAME(sched_yield),
    SAME(sigfillset), SAME(snprintf), SAME(strchr), SAME(strcspn), SAME(strlen), SAME(strstr), SAME(strtol),
    SAME(syscall), SAME(sysconf), SAME(memcpy), SAME(memmove), SAME(memset), SAME(memcmp), SAME(malloc), SAME(free),
    SAME(expf), SAME(exp2f), SAME(logf), SAME(log2f), SAME(powf), SAME(sinf), SAME(cosf), SAME(tanf), SAME(tanhf),
    SAME(erff), SAME(floorf), SAME(ceilf), SAME(roundf), SAME(truncf), SAME(rintf), SAME(nearbyintf), SAME(fmodf),
    SAME(fmaf), SAME(sqrtf), SAME(atanf), SAME(sinhf), SAME(coshf), SAME(asinf), SAME(acosf), SAME(exp), SAME(log),
    SAME(pow), SAME(floor), SAME(ceil), SAME(round), SAME(rint), SAME(nearbyint), SAME(tanh), SAME(erf),
};

static uint64_t find(const char *name)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i)
        if (!strcmp(known[i].name, name)) return (uint64_t)known[i].address;
    fail("the library needs %s, which runner.c does not have", name);
    return 0;
}

/* -- a shared library in memory ----------------------------------------------------------------------------------- */
static void relocate(char *image, const Elf64_Rela *rela, uint64_t bytes, const Elf64_Sym *symbols, const char *names)
{
    for (const Elf64_Rela *end = rela + bytes / sizeof *rela; rela < end; ++rela) {
        uint64_t *place = (uint64_t *)(image + rela->r_offset);
        const Elf64_Sym *symbol = symbols + ELF64_R_SYM(rela->r_info);
        const uint64_t value = symbol->st_shndx ? (uint64_t)image + symbol->st_value : 0;
        switch (ELF64_R_TYPE(rela->r_info)) {
        case R_X86_64_RELATIVE: *place = (uint64_t)image + rela->r_addend; break;
        case R_X86_64_64: *place = (value ? value : find(names + symbol->st_name)) + rela->r_addend; break;
        case R_X86_64_GLOB_DAT:
        case R_X86_64_JUMP_SLOT: *place = value ? value : find(names + symbol->st_name); break;
        case R_X86_64_DTPMOD64: *place = 1; break;
        case R_X86_64_DTPOFF64: *place = symbol->st_value + rela->r_addend; break;
        default: fail("the library has a relocation of type %d", (int)ELF64_R_TYPE(rela->r_info));
        }
    }
}

/* The address of a function of the library in a file's bytes, or NULL after fail(). */
static void *load(const char *file, const char *function)
{
    const Elf64_Ehdr *header = (const void *)file;
    const Elf64_Phdr *segments = (const void *)(file + header->e_phoff);
    uint64_t size = 0, dynamic = 0, at[DT_NUM] = {0};
    for (int i = 0; i < header->e_phnum; ++i) {
        const uint64_t end = segments[i].p_vaddr + segments[i].p_memsz;
        if (segments[i].p_type == PT_LOAD && end > size) size = end;
        if (segments[i].p_type == PT_DYNAMIC) dynamic = segments[i].p_vaddr;
        if (segments[i].p_type == PT_TLS && (segments[i].p_filesz || segments[i].p_memsz > sizeof locals.bytes))
            fail("the library has thread-local variables that are not zero, or too many");
    }
    char *image = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    memset(image, 0, size);
    memset(locals.bytes, 0, sizeof locals.bytes);
    for (int i = 0; i < header->e_phnum; ++i)
        if (segments[i].p_type == PT_LOAD)
            memcpy(image + segments[i].p_vaddr, file + segments[i].p_offset, segments[i].p_filesz);
    for (const Elf64_Dyn *entry = (const void *)(image + dynamic); entry->d_tag; ++entry)
        if (entry->d_tag < DT_NUM) at[entry->d_tag] = entry->d_un.d_val;
    const Elf64_Sym *symbols = (const void *)(image + at[DT_SYMTAB]);
    const char *names = image + at[DT_STRTAB];
    relocate(image, (const void *)(image + at[DT_RELA]), at[DT_RELASZ], symbols, names);
    relocate(image, (const void *)(image + at[DT_JMPREL]), at[DT_PLTRELSZ], symbols, names);
    if (result.status) return NULL;
    void (**initial)(void) = (void *)(image + at[DT_INIT_ARRAY]);
    for (uint64_t i = 0; i < at[DT_INIT_ARRAYSZ] / sizeof *initial; ++i) initial[i]();
    void *found = NULL;
    for (const Elf64_Sym *symbol = symbols; (const char *)symbol < names; ++symbol) { /* the names follow in the file */
        if (!symbol->st_shndx) continue;
        const char *name = names + symbol->st_name;
        if (!strcmp(name, function)) found = image + symbol->st_value;
        if (!strncmp(name, "__TVM", 5)) *(uint64_t *)(image + symbol->st_value) = find(name + 2); /* as TVM's loader does */
    }
    if (found) return result.status ? NULL : found;
    fail("the library has no %s", function);
    return NULL;
}

/* -- the disk ----------------------------------------------------------------------------------------------------- */
static void out(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static uint8_t in(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* Writes whole sectors by ATA's WRITE SECTORS; returns the next sector's number. */
static uint64_t write_disk(uint64_t sector, const char *data, uint64_t bytes)
{
    for (const char *end = data + bytes; data < end; ++sector) {
        out(0x1f2, 1);
        for (int i = 0; i < 3; ++i) out(0x1f3 + i, (uint8_t)(sector >> 8 * i));
        out(0x1f6, (uint8_t)(0xe0 | sector >> 24));
        out(0x1f7, 0x30);
        while ((in(0x1f7) & 0x88) != 0x08) {}
        uint64_t words = SECTOR / 2;
        __asm__ volatile("rep outsw" : "+S"(data), "+c"(words) : "d"(0x1f0) : "memory");
        while (in(0x1f7) & 0x80) {}
    }
    return sector;
}

/* -- networks ----------------------------------------------------------------------------------------------------- */
static const uint64_t *tape = (const uint64_t *)TAPE;

static const char *blob(uint64_t bytes)
{
    const char *found = (const char *)(((uint64_t)tape + 63) / 64 * 64);
    tape = (const uint64_t *)(found + (bytes + 63) / 64 * 64);
    return found;
}

enum { LINE = 64, MARK = 0xc3 };

/* Zeros from a multiple of 64 on, and marks behind them. */
static char *memory(uint64_t bytes)
{
    const uint64_t whole = (bytes + SECTOR - 1) / SECTOR * SECTOR + LINE;
    char *found = aligned_alloc(LINE, whole);
    if (!found) return NULL;
    memset(found, 0, whole);
    memset(found + (bytes + LINE - 1) / LINE * LINE, MARK, LINE);
    return found;
}

static void check_marks(uint64_t number, const char *data, uint64_t bytes)
{
    for (const char *place = data + (bytes + LINE - 1) / LINE * LINE, *end = place + LINE; place < end; ++place)
        if ((uint8_t)*place != MARK) return fail("argument %d was written behind its end", (int)number);
}

static uint64_t run(uint64_t sector)
{
    static DLTensor tensors[MOST];
    static int64_t shapes[MOST][MOST_AXES];
    static uint64_t sizes[MOST], written[MOST];
    static TVMFFIAny arguments[MOST + 2];
    const uint64_t file = *tape++, begin = *tape++, end = *tape++, count = *tape++;
    memset(&result, 0, sizeof result);
    memset(arguments, 0, sizeof arguments);
    memset(tensors, 0, sizeof tensors);
    for (uint64_t i = 0; i < count; ++i) {
        DLTensor *tensor = tensors + i;
        tensor->device.device_type = kDLCPU;
        tensor->dtype = (DLDataType){(uint8_t)tape[0], (uint8_t)tape[1], 1};
        sizes[i] = tape[2];
        written[i] = tape[3];
        tensor->ndim = (int32_t)tape[4];
        tensor->shape = shapes[i];
        tape += 5;
        for (int32_t j = 0; j < tensor->ndim; ++j) shapes[i][j] = (int64_t)*tape++;
        arguments[i].type_index = kTVMFFIDLTensorPtr;
        arguments[i].v_ptr = tensor;
    }
    arguments[count].type_index = arguments[count + 1].type_index = kTVMFFIInt;
    arguments[count].v_int64 = (int64_t)begin;
    arguments[count + 1].v_int64 = (int64_t)end;
    const char *library = blob(file);
    for (uint64_t i = 0; i < count; ++i) {
        tensors[i].data = memory(sizes[i]);
        if (!tensors[i].data) return fail("there is no memory left"), write_disk(sector, (const char *)&result, SECTOR);
        memcpy(tensors[i].data, blob(sizes[i]), sizes[i]);
    }
    TVMFFISafeCallType function = (TVMFFISafeCallType)load(library, "__tvm_ffi_tern_main");
    TVMFFIAny returned = {0};
    if (function) {
        const int status = function(NULL, arguments, (int32_t)count + 2, &returned);
        if (status && !result.status) fail("the network returned %d", status);
    }
    for (uint64_t i = 0; i < count; ++i) check_marks(i, tensors[i].data, sizes[i]);
    if (!result.status) result.status = DONE;
    sector = write_disk(sector, (const char *)&result, SECTOR);
    for (uint64_t i = 0; i < count; ++i)
        if (written[i]) sector = write_disk(sector, tensors[i].data, (sizes[i] + SECTOR - 1) / SECTOR * SECTOR);
    for (uint64_t i = 0; i < count; ++i) free(tensors[i].data);
    return sector;
}

int main(void)
{
    uint64_t count = *tape++, sector = *tape++;
    while (count--) {
        blob(0); /* a network begins at a multiple of 64 */
        sector = run(sector);
    }
    return 0;
}
