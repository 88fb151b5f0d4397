/*
 * Copyright (c) 2026, the inferops authors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Stands in for the libcuda.so.1 of an NVIDIA driver 580, without a GPU: the driver's library that programs have a GPU
 * work through. Which GPUs there are, what fails and how fast they are is written in the scenario of fake_nvml.c, which
 * it asks.
 *
 *     gcc -shared -fPIC -o libcuda.so.1 fake_cuda.c -L. -l:libnvidia-ml.so.1
 *
 * It has the functions that a smoke test of a GPU calls, and no other.
 *
 * Nothing is computed, and no memory but the smallest is there. It keeps account instead: of what is allocated, which
 * pattern fills it, and how long the copies and programs take that were begun. Programs are known by their names,
 * `fill`, `check` and `multiply`, and by the matrix instructions in their text. What a caller does wrong is met as on a
 * GPU: an argument that does not fit is error 1, a program that leaves its memory spoils the context with error 700, a
 * child of the process that called cuInit gets error 3.
 *
 * Of a scenario it knows, beside the PCI addresses, the compute capability and the memory that NVML tells:
 *
 *     [system]
 *     cuInit = error 802           ; a call by its name, with or without its version: "error CODE" or "hang SECONDS"
 *     [gpu1]
 *     handle = error 15            ; CUDA does not find it either
 *     cuda_calls = error 999       ; every call on it
 *     cuMemAlloc = error 2
 *     memory_errors = 3            ; any key of the table `facts` below
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    PEER_ACCESS_UNSUPPORTED = 217,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    PEER_ACCESS_ALREADY_ENABLED = 704,
    SYSTEM_DRIVER_MISMATCH = 803,
    UNKNOWN = 999,
} Result;

enum { GPUS_MAX = 16, SYSTEM = -1, KEPT_BYTES = 4096, THREADS_MAX = 1024, WARP_THREADS = 32 };
enum { MULTIPROCESSORS = 16, INTEGRATED = 18, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };

static const double FLOPS_OF_A_PRODUCT = 2.0 * 16 * 8 * 16;

/* Of fake_nvml.c. */
enum { NVML_DRIVER_NOT_LOADED = 9, NVML_VERSION_MISMATCH = 18 };
int nvmlInitWithFlags(unsigned flags);
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, const int **handle);
const char *fakeValue(int gpu, const char *key);
int fakeTold(int gpu, const char *call);


/* What a scenario may say of a GPU, and what holds where it does not. */
static const struct fact {
    const char *key, *usual;
} facts[] = {
    {"cuda_multiprocessors", "132"},
    /* Whether its memory is the host's. */
    {"cuda_integrated", "0"},
    /* Before this process took any; empty: what NVML tells. */
    {"cuda_free_mib", ""},
    {"cuda_tflops", "600"},
    /* Read and written. */
    {"cuda_memory_gbps", "3000"},
    {"cuda_host_gbps", "50"},
    {"cuda_peer_gbps", "200"},
    {"cuda_peer_access", "1"},
    /* Words at the end of an allocation, whose lowest bit is stuck at 1; the pattern has that of its seed. */
    {"memory_errors", "0"},
    /* Sums that come out wrong, in each run. */
    {"compute_errors", "0"},
};

static const char *value(int gpu, const char *key)
{
    const char *told = fakeValue(gpu, key);
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        if (!*told && !strcmp(facts[i].key, key))
            return facts[i].usual;
    return told;
}

static double number(int gpu, const char *key)
{
    return strtod(value(gpu, key), NULL);
}


/* What a process has on the GPUs. */

static struct context {
    int gpu;
    bool peers[GPUS_MAX];
    uint64_t allocated;
    /* Of the GPU, in seconds: it stands still but for the work. */
    double clock;
    /* Once spoiled, every call fails. */
    Result failure;
} contexts[GPUS_MAX];

static _Thread_local struct context *current;
static pid_t initialized_by;

static struct memory {
    struct memory *next;
    int gpu;
    uint64_t address, size;
    /* Of the smallest alone. */
    unsigned char *content;
    /* The pattern that it was filled with. */
    uint64_t filled_words;
    uint32_t seed;
} *memories;

/* Where in the memory of a GPU that range is; NULL where it is not within one allocation. */
static struct memory *memory_at(int gpu, uint64_t address, uint64_t size)
{
    for (struct memory *memory = memories; memory; memory = memory->next)
        if (memory->gpu == gpu && address >= memory->address && size <= memory->size
            && address - memory->address <= memory->size - size)
            return memory;
    return NULL;
}

/* The same in words. */
static struct memory *words_at(int gpu, uint64_t start, uint64_t words)
{
    return words <= UINT64_MAX / 4 ? memory_at(gpu, start, words * 4) : NULL;
}

static uint64_t free_bytes(int gpu)
{
    double mib = *value(gpu, "cuda_free_mib")
        ? number(gpu, "cuda_free_mib")
        : number(gpu, "memory_total_mib") - number(gpu, "memory_reserved_mib") - number(gpu, "memory_used_mib");
    uint64_t size = mib > 0 ? (uint64_t)(mib * (1 << 20)) : 0, allocated = contexts[gpu].allocated;
    return size > allocated ? size - allocated : 0;
}

static void work(struct context *context, double amount, const char *speed, double unit)
{
    context->clock += amount / (number(context->gpu, speed) * unit);
}


/* How every call begins. */

/* Leave the function with the error, if there is one. */
#define TRY(expression)              \
    do {                             \
        Result tried = (expression); \
        if (tried)                   \
            return tried;            \
    } while (0)

static Result enter_device(const char *call, int gpu)
{
    if (initialized_by != getpid())
        return NOT_INITIALIZED;
    if (gpu < 0 || gpu >= GPUS_MAX)
        return INVALID_DEVICE;
    return (Result)fakeTold(gpu, call);
}

static Result enter(const char *call)
{
    if (initialized_by != getpid())
        return NOT_INITIALIZED;
    if (!current)
        return INVALID_CONTEXT;
    TRY(enter_device(call, current->gpu));
    return current->failure;
}


/* The library and its GPUs */

Result cuInit(unsigned flags)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    int code = nvmlInitWithFlags(0);
    if (code)
        return code == NVML_DRIVER_NOT_LOADED ? NO_DEVICE
             : code == NVML_VERSION_MISMATCH  ? SYSTEM_DRIVER_MISMATCH
                                              : UNKNOWN;
    TRY((Result)fakeTold(SYSTEM, __func__));
    if (flags)
        return INVALID_VALUE;
    if (visible && !*visible)
        return NO_DEVICE;
    for (int gpu = 0; gpu < GPUS_MAX; gpu++)
        contexts[gpu].gpu = gpu;
    initialized_by = getpid();
    return SUCCESS;
}

Result cuGetErrorString(Result code, const char **text)
{
    static const struct error {
        int code;
        const char *text;
    } errors[] = {
        {0, "no error"},
        {1, "invalid argument"},
        {2, "out of memory"},
        {3, "initialization error"},
        {4, "driver shutting down"},
        {46, "CUDA-capable device(s) is/are busy or unavailable"},
        {100, "no CUDA-capable device is detected"},
        {101, "invalid device ordinal"},
        {200, "device kernel image is invalid"},
        {201, "invalid device context"},
        {209, "no kernel image is available for execution on the device"},
        {214, "uncorrectable ECC error encountered"},
        {217, "peer access is not supported between these two devices"},
        {218, "a PTX JIT compilation failed"},
        {220, "uncorrectable NVLink error detected during the execution"},
        {221, "PTX JIT compiler library not found"},
        {222, "the provided PTX was compiled with an unsupported toolchain."},
        {304, "OS call failed or operation not supported on this OS"},
        {400, "invalid resource handle"},
        {500, "named symbol not found"},
        {700, "an illegal memory access was encountered"},
        {702, "the launch timed out and was terminated"},
        {704, "peer access is already enabled"},
        {714, "hardware stack error"},
        {715, "an illegal instruction was encountered"},
        {716, "misaligned address"},
        {719, "unspecified launch failure"},
        {800, "operation not permitted"},
        {801, "operation not supported"},
        {802, "system not yet initialized"},
        {803, "system has unsupported display driver / cuda driver combination"},
        {804, "forward compatibility was attempted on non supported HW"},
        {999, "unknown error"},
    };
    *text = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == (int)code)
            *text = errors[i].text;
    return *text ? SUCCESS : INVALID_VALUE;
}

Result cuDeviceGetByPCIBusId(int *gpu, const char *bus_id)
{
    const int *index;
    if (initialized_by != getpid())
        return NOT_INITIALIZED;
    /* A handle points to the index. */
    if (nvmlDeviceGetHandleByPciBusId_v2(bus_id, &index))
        return INVALID_DEVICE;
    *gpu = *index;
    return enter_device(__func__, *gpu);
}

Result cuDeviceGetAttribute(int *out, int attribute, int gpu)
{
    int major = 0, minor = 0;
    TRY(enter_device(__func__, gpu));
    sscanf(value(gpu, "compute_capability"), "%d.%d", &major, &minor);
    switch (attribute) {
    case MULTIPROCESSORS:
        *out = (int)number(gpu, "cuda_multiprocessors");
        return SUCCESS;
    case INTEGRATED:
        *out = (int)number(gpu, "cuda_integrated");
        return SUCCESS;
    case CAPABILITY_MAJOR:
        *out = major;
        return SUCCESS;
    case CAPABILITY_MINOR:
        *out = minor;
        return SUCCESS;
    default:
        return INVALID_VALUE;
    }
}

Result cuDevicePrimaryCtxRetain(struct context **context, int gpu)
{
    TRY(enter_device(__func__, gpu));
    *context = &contexts[gpu];
    return SUCCESS;
}

Result cuCtxSetCurrent(struct context *context)
{
    if (initialized_by != getpid())
        return NOT_INITIALIZED;
    if (context < contexts || context >= contexts + GPUS_MAX)
        return INVALID_CONTEXT;
    TRY(enter_device(__func__, context->gpu));
    current = context;
    return SUCCESS;
}


/* Memory */

Result cuMemGetInfo_v2(size_t *free_size, size_t *total)
{
    TRY(enter(__func__));
    *free_size = free_bytes(current->gpu);
    *total = (size_t)(number(current->gpu, "memory_total_mib") * (1 << 20));
    return SUCCESS;
}

Result cuMemAlloc_v2(uint64_t *address, size_t size)
{
    /* None that the host has: it must not be read there. */
    static uint64_t next = 0x700000000000;
    struct memory *memory;
    TRY(enter(__func__));
    if (!size)
        return INVALID_VALUE;
    if (size > free_bytes(current->gpu) || !(memory = malloc(sizeof *memory)))
        return OUT_OF_MEMORY;
    *memory = (struct memory){.next = memories, .gpu = current->gpu, .address = next, .size = size};
    if (size <= KEPT_BYTES)
        memory->content = calloc(1, size);
    memories = memory;
    current->allocated += size;
    next += (size + 0x3fffff) & ~(uint64_t)0x1fffff;
    *address = memory->address;
    return SUCCESS;
}

Result cuMemHostAlloc(void **address, size_t size, unsigned flags)
{
    TRY(enter(__func__));
    if (!size || flags)
        return INVALID_VALUE;
    /* Untouched, it takes nothing. */
    *address = malloc(size);
    return *address ? SUCCESS : OUT_OF_MEMORY;
}

Result cuMemsetD32_v2(uint64_t address, unsigned word, size_t count)
{
    TRY(enter(__func__));
    struct memory *memory = words_at(current->gpu, address, count);
    if (!memory)
        return INVALID_VALUE;
    memory->filled_words = 0;
    for (size_t i = 0; memory->content && i < count; i++)
        memcpy(memory->content + (address - memory->address) + i * sizeof word, &word, sizeof word);
    return SUCCESS;
}

static Result copy_to_host(void *target, uint64_t origin, size_t size)
{
    struct memory *memory = memory_at(current->gpu, origin, size);
    if (!memory || !target)
        return INVALID_VALUE;
    if (memory->content)
        memcpy(target, memory->content + (origin - memory->address), size);
    work(current, (double)size, "cuda_host_gbps", 1e9);
    return SUCCESS;
}

Result cuMemcpyDtoH_v2(void *target, uint64_t origin, size_t size)
{
    TRY(enter(__func__));
    return copy_to_host(target, origin, size);
}

Result cuMemcpyDtoHAsync_v2(void *target, uint64_t origin, size_t size, void *stream)
{
    TRY(enter(__func__));
    return stream ? INVALID_HANDLE : copy_to_host(target, origin, size);
}

Result cuMemcpyHtoDAsync_v2(uint64_t target, const void *origin, size_t size, void *stream)
{
    TRY(enter(__func__));
    struct memory *memory = memory_at(current->gpu, target, size);
    if (stream)
        return INVALID_HANDLE;
    if (!memory || !origin)
        return INVALID_VALUE;
    memory->filled_words = 0;
    if (memory->content)
        memcpy(memory->content + (target - memory->address), origin, size);
    work(current, (double)size, "cuda_host_gbps", 1e9);
    return SUCCESS;
}

Result cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t origin, size_t size, void *stream)
{
    TRY(enter(__func__));
    struct memory *memory = memory_at(current->gpu, target, size);
    if (stream)
        return INVALID_HANDLE;
    if (!memory || !memory_at(current->gpu, origin, size))
        return INVALID_VALUE;
    memory->filled_words = 0;
    work(current, 2.0 * (double)size, "cuda_memory_gbps", 1e9);
    return SUCCESS;
}


/* Peers */

static bool reachable(int gpu, int peer)
{
    return gpu != peer && number(gpu, "cuda_peer_access") && number(peer, "cuda_peer_access");
}

Result cuDeviceCanAccessPeer(int *can, int gpu, int peer)
{
    TRY(enter_device(__func__, peer));
    TRY(enter_device(__func__, gpu));
    *can = reachable(gpu, peer);
    return SUCCESS;
}

Result cuCtxEnablePeerAccess(struct context *peer, unsigned flags)
{
    TRY(enter(__func__));
    if (flags)
        return INVALID_VALUE;
    if (peer < contexts || peer >= contexts + GPUS_MAX)
        return INVALID_CONTEXT;
    if (!reachable(current->gpu, peer->gpu))
        return PEER_ACCESS_UNSUPPORTED;
    if (current->peers[peer->gpu])
        return PEER_ACCESS_ALREADY_ENABLED;
    current->peers[peer->gpu] = true;
    return SUCCESS;
}

/* Through the host, unless one may reach the other. */
Result cuMemcpyPeerAsync(uint64_t target, struct context *theirs, uint64_t origin, struct context *ours, size_t size,
                         void *stream)
{
    TRY(enter(__func__));
    if (stream)
        return INVALID_HANDLE;
    if (theirs < contexts || theirs >= contexts + GPUS_MAX || ours < contexts || ours >= contexts + GPUS_MAX)
        return INVALID_CONTEXT;
    if (!memory_at(theirs->gpu, target, size) || !memory_at(ours->gpu, origin, size))
        return INVALID_VALUE;
    work(current, (double)size, current->peers[theirs->gpu] ? "cuda_peer_gbps" : "cuda_host_gbps", 1e9);
    return SUCCESS;
}


/* Programs */

struct function {
    char name[32];
    int products;
};

/* The module is a copy of its text. */
Result cuModuleLoadData(char **module, const char *text)
{
    TRY(enter(__func__));
    if (!strstr(text, ".version") || !strstr(text, ".target"))
        return INVALID_IMAGE;
    *module = strdup(text);
    return *module ? SUCCESS : OUT_OF_MEMORY;
}

Result cuModuleGetFunction(struct function **function, const char *module, const char *name)
{
    char entry[64];
    TRY(enter(__func__));
    snprintf(entry, sizeof entry, ".entry %s(", name);
    const char *start = strstr(module, entry);
    if (!start)
        return NOT_FOUND;
    const char *end = strstr(start + 1, ".entry ");
    if (!(*function = calloc(1, sizeof **function)))
        return OUT_OF_MEMORY;
    snprintf((*function)->name, sizeof (*function)->name, "%s", name);
    while ((start = strstr(start + 1, "mma.sync.")) && (!end || start < end))
        (*function)->products++;
    return SUCCESS;
}

/* Add to a counter, as the programs do with what they find wrong. */
static Result count(uint64_t counter, uint64_t errors)
{
    uint32_t word;
    struct memory *memory = memory_at(current->gpu, counter, sizeof word);
    if (!memory || !memory->content)
        return ILLEGAL_ADDRESS;
    unsigned char *place = memory->content + (counter - memory->address);
    memcpy(&word, place, sizeof word);
    word += (uint32_t)errors;
    memcpy(place, &word, sizeof word);
    return SUCCESS;
}

static Result fill(void **arguments)
{
    uint64_t start = *(uint64_t *)arguments[0], words = *(uint64_t *)arguments[1];
    struct memory *memory = words_at(current->gpu, start, words);
    if (!memory)
        return ILLEGAL_ADDRESS;
    memory->filled_words = start == memory->address ? words : 0;
    memory->seed = *(uint32_t *)arguments[2];
    work(current, (double)words * 4, "cuda_memory_gbps", 1e9);
    return SUCCESS;
}

static Result check(void **arguments)
{
    uint64_t start = *(uint64_t *)arguments[0], words = *(uint64_t *)arguments[1];
    uint32_t seed = *(uint32_t *)arguments[2];
    struct memory *memory = words_at(current->gpu, start, words);
    if (!memory)
        return ILLEGAL_ADDRESS;
    bool filled = start == memory->address && words <= memory->filled_words && seed == memory->seed;
    bool shown = !(seed & 1) && words == memory->size / 4;
    uint64_t stuck = shown ? (uint64_t)number(current->gpu, "memory_errors") : 0;
    work(current, (double)words * 4, "cuda_memory_gbps", 1e9);
    return count(*(uint64_t *)arguments[3], filled ? stuck : words);
}

static Result multiply(const struct function *function, double threads, void **arguments)
{
    double products = threads / WARP_THREADS * *(uint32_t *)arguments[0] * function->products;
    work(current, products * FLOPS_OF_A_PRODUCT, "cuda_tflops", 1e12);
    return count(*(uint64_t *)arguments[1], (uint64_t)number(current->gpu, "compute_errors"));
}

/* What a program does wrong, later calls tell. */
Result cuLaunchKernel(const struct function *function, unsigned blocks, unsigned blocks_y, unsigned blocks_z,
                      unsigned threads, unsigned threads_y, unsigned threads_z, unsigned shared, void *stream,
                      void **arguments, void **extra)
{
    TRY(enter(__func__));
    if (!function || stream)
        return INVALID_HANDLE;
    if (!blocks || blocks_y != 1 || blocks_z != 1 || !threads || threads > THREADS_MAX || threads_y != 1
        || threads_z != 1 || shared || extra || !arguments)
        return INVALID_VALUE;
    if (!strcmp(function->name, "fill"))
        current->failure = fill(arguments);
    else if (!strcmp(function->name, "check"))
        current->failure = check(arguments);
    else if (!strcmp(function->name, "multiply"))
        current->failure = multiply(function, (double)blocks * threads, arguments);
    else
        return INVALID_HANDLE;
    return SUCCESS;
}


/* Events */

struct event {
    int gpu;
    bool recorded;
    double at;
};

Result cuEventCreate(struct event **event, unsigned flags)
{
    TRY(enter(__func__));
    if (flags)
        return INVALID_VALUE;
    if (!(*event = calloc(1, sizeof **event)))
        return OUT_OF_MEMORY;
    (*event)->gpu = current->gpu;
    return SUCCESS;
}

Result cuEventRecord(struct event *event, void *stream)
{
    TRY(enter(__func__));
    if (!event || stream || event->gpu != current->gpu)
        return INVALID_HANDLE;
    event->at = current->clock;
    event->recorded = true;
    return SUCCESS;
}

Result cuEventSynchronize(struct event *event)
{
    TRY(enter(__func__));
    return event ? SUCCESS : INVALID_HANDLE;
}

Result cuEventElapsedTime(float *milliseconds, const struct event *began, const struct event *ended)
{
    TRY(enter(__func__));
    if (!began || !ended || !began->recorded || !ended->recorded || began->gpu != ended->gpu)
        return INVALID_HANDLE;
    *milliseconds = (float)((ended->at - began->at) * 1e3);
    return SUCCESS;
}
