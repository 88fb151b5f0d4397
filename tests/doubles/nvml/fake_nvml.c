/*
 * Copyright (c) 2026, the inferops authors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Stands in for the libnvidia-ml.so.1 of an NVIDIA driver 580, without a GPU: what it answers is written in a scenario,
 * an INI file that $FAKE_NVML names and that is read anew at each call, so that a GPU may fail while a program runs.
 *
 *     gcc -shared -fPIC -o libnvidia-ml.so.1 fake_nvml.c
 *
 * It has the functions, in the versions that nvidia-ml-py 13.615 asks for, that tell the health of a GPU. Any other is
 * not there, and a caller meets what an older driver shows it: Function Not Found.
 *
 * Answers of a driver 580.159.04 on an H200 that it repeats: codes and texts of errors; 25 for a wrong version word,
 * but 13 for the memory; types of field values, and 2 for an unknown field; NVLink 3 where there is none; a retired page 3
 * where rows are remapped; the used memory of version 1 with the reserved in it; PCI addresses in any form.
 *
 * A scenario:
 *
 *     [system]                     ; keys: driver, library (of the user space), cuda, count
 *                                  ; for modinfo and fake.py: installed, nvswitches
 *     nvmlInit = error 18          ; a call by its name, with or without its version: "error CODE" or "hang SECONDS"
 *     [gpu]                        ; for all GPUs
 *     nvmlDeviceGetTemperature = error 3
 *     [gpu1]
 *     handle = error 15            ; the three calls that find a GPU
 *     calls = hang 60              ; every other call on it, but those of CUDA: see fake_cuda.c
 *     remap_pending = 1            ; any key of the table `facts` below; its value, too, may be an error or a hang
 *     processes = 4242:VLLM::EngineCor:78000, 4243:python:-      ; pid:name:MiB, "-" where the driver does not know
 *
 * A call that hangs is deaf to every signal but SIGKILL, as one in the kernel's uninterruptible sleep; that one
 * outlasts SIGKILL too, which no double can show.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

typedef enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    FUNCTION_NOT_FOUND = 13,
    GPU_IS_LOST = 15,
    ARGUMENT_VERSION_MISMATCH = 25,
} Return;

enum { GPUS_MAX = 16, ENTRIES_MAX = 1024, SYSTEM = -1 };

static const unsigned long long MIB = 1ULL << 20;
static const unsigned long long NOT_AVAILABLE = ~0ULL;

/* A handle is a pointer to one of these. */
static struct device {
    int index;
} devices[GPUS_MAX];

static int initialized;


/* What a GPU tells: the key of a scenario, the call that it comes by, and what a healthy H100 80GB answers, with the
   index of the GPU in place of #. */
static const struct fact {
    const char *key, *call, *healthy;
} facts[] = {
    {"name", "nvmlDeviceGetName", "NVIDIA H100 80GB HBM3"},
    {"uuid", "nvmlDeviceGetUUID", "GPU-00000000-0000-0000-0000-00000000000#"},
    {"serial", "nvmlDeviceGetSerial", "000000000000#"},
    {"board_part_number", "nvmlDeviceGetBoardPartNumber", "695-2G520-0200-000"},
    {"vbios", "nvmlDeviceGetVbiosVersion", "96.00.DA.00.0C"},
    {"bus_id", "nvmlDeviceGetPciInfo", "00000000:0#:00.0"},
    {"architecture", "nvmlDeviceGetArchitecture", "9"},
    {"compute_capability", "nvmlDeviceGetCudaComputeCapability", "9.0"},
    {"persistence_mode", "nvmlDeviceGetPersistenceMode", "1"},
    {"mig_mode", "nvmlDeviceGetMigMode", "0"},
    {"mig_mode_pending", "nvmlDeviceGetMigMode", "0"},
    {"ecc_mode", "nvmlDeviceGetEccMode", "1"},
    {"ecc_mode_pending", "nvmlDeviceGetEccMode", "1"},
    {"ecc_corrected_volatile", "nvmlDeviceGetTotalEccErrors", "0"},
    {"ecc_corrected_aggregate", "nvmlDeviceGetTotalEccErrors", "0"},
    {"ecc_uncorrected_volatile", "nvmlDeviceGetTotalEccErrors", "0"},
    {"ecc_uncorrected_aggregate", "nvmlDeviceGetTotalEccErrors", "0"},
    /* Of the totals above, the share of the SRAM; the rest is the DRAM's. */
    {"sram_corrected_volatile", "nvmlDeviceGetMemoryErrorCounter", "0"},
    {"sram_corrected_aggregate", "nvmlDeviceGetMemoryErrorCounter", "0"},
    {"sram_uncorrected_volatile", "nvmlDeviceGetMemoryErrorCounter", "0"},
    {"sram_uncorrected_aggregate", "nvmlDeviceGetMemoryErrorCounter", "0"},
    {"sram_threshold_exceeded", "nvmlDeviceGetSramEccErrorStatus", "0"},
    {"rows_remapped_corrected", "nvmlDeviceGetRemappedRows", "0"},
    {"rows_remapped_uncorrected", "nvmlDeviceGetRemappedRows", "0"},
    {"remap_pending", "nvmlDeviceGetRemappedRows", "0"},
    {"remap_failed", "nvmlDeviceGetRemappedRows", "0"},
    {"remap_banks", "nvmlDeviceGetRowRemapperHistogram", "2560"},
    {"pages_retired", "nvmlDeviceGetRetiredPages", "error 3"},
    {"pages_pending", "nvmlDeviceGetRetiredPagesPendingStatus", "error 3"},
    {"channel_repair_pending", "nvmlDeviceGetRepairStatus", "0"},
    {"tpc_repair_pending", "nvmlDeviceGetRepairStatus", "0"},
    {"unrepairable_memory", "nvmlDeviceGetUnrepairableMemoryFlag_v1", "0"},
    {"clock_event_reasons", "nvmlDeviceGetCurrentClocksEventReasons", "0x1"},
    {"temperature_celsius", "nvmlDeviceGetTemperature", "34"},
    {"memory_temperature_celsius", "nvmlDeviceGetFieldValues", "38"},
    {"shutdown_celsius", "nvmlDeviceGetTemperatureThreshold", "95"},
    {"slowdown_celsius", "nvmlDeviceGetTemperatureThreshold", "89"},
    {"memory_max_celsius", "nvmlDeviceGetTemperatureThreshold", "95"},
    {"gpu_max_celsius", "nvmlDeviceGetTemperatureThreshold", "87"},
    {"power_watts", "nvmlDeviceGetPowerUsage", "71.59"},
    {"power_limit_watts", "nvmlDeviceGetEnforcedPowerLimit", "700"},
    {"power_limit_min_watts", "nvmlDeviceGetPowerManagementLimitConstraints", "200"},
    {"power_limit_max_watts", "nvmlDeviceGetPowerManagementLimitConstraints", "700"},
    {"utilization_percent", "nvmlDeviceGetUtilizationRates", "0"},
    {"memory_utilization_percent", "nvmlDeviceGetUtilizationRates", "0"},
    {"pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration", "5"},
    {"pcie_generation_max", "nvmlDeviceGetMaxPcieLinkGeneration", "5"},
    {"pcie_generation_gpu_max", "nvmlDeviceGetGpuMaxPcieLinkGeneration", "5"},
    {"pcie_width", "nvmlDeviceGetCurrPcieLinkWidth", "16"},
    {"pcie_width_max", "nvmlDeviceGetMaxPcieLinkWidth", "16"},
    {"pcie_replays", "nvmlDeviceGetPcieReplayCounter", "0"},
    {"memory_total_mib", "nvmlDeviceGetMemoryInfo", "81559"},
    {"memory_reserved_mib", "nvmlDeviceGetMemoryInfo", "480"},
    /* Empty: what the processes hold. */
    {"memory_used_mib", "nvmlDeviceGetMemoryInfo", ""},
    {"processes", "nvmlDeviceGetComputeRunningProcesses", ""},
    /* Those that are active are the first ones. */
    {"nvlinks", "nvmlDeviceGetNvLinkState", "18"},
    {"nvlinks_total", "nvmlDeviceGetNvLinkState", "18"},
    /* All of them replays of link 0. */
    {"nvlink_errors", "nvmlDeviceGetNvLinkErrorCounter", "0"},
    {"fabric_state", "nvmlDeviceGetGpuFabricInfoV", "3"},
    {"fabric_status", "nvmlDeviceGetGpuFabricInfoV", "0"},
    {"fabric_health_mask", "nvmlDeviceGetGpuFabricInfoV", "0"},
    {"fabric_health_summary", "nvmlDeviceGetGpuFabricInfoV", "0"},
    {"recovery_action", "nvmlDeviceGetFieldValues", "0"},
    /* What a reset does, of which NVML knows nothing: refused, fails or hang. */
    {"reset", "nvidia-smi", ""},
};


/* The scenario: read, and asked for the value of a key. */

static _Thread_local struct scenario {
    char text[1 << 16];
    struct entry {
        const char *section, *key, *value;
    } entries[ENTRIES_MAX];
    int length;
} scenario;

static char *trimmed(char *text)
{
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = '\0';
    while (isspace((unsigned char)*text))
        text++;
    return text;
}

static char *without_comment(char *text)
{
    for (char *mark = text; (mark = strchr(mark, ';')); mark++)
        if (mark > text && isblank((unsigned char)mark[-1])) {
            *mark = '\0';
            break;
        }
    return text;
}

static void add(const char *section, const char *key, const char *value)
{
    if (scenario.length < ENTRIES_MAX)
        scenario.entries[scenario.length++] = (struct entry){section, key, value};
}

/* A section that has no key yet counts as well: it has the key "". */
static void parse(char *text)
{
    const char *section = "";
    char *rest = NULL;
    scenario.length = 0;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        line = trimmed(line);
        char *equals = strchr(line, '=');
        if (*line == ';' || *line == '#')
            continue;
        if (*line == '[') {
            line[strcspn(line, "]")] = '\0';
            section = line + 1;
            add(section, "", "");
        } else if (equals) {
            *equals = '\0';
            add(section, trimmed(line), trimmed(without_comment(equals + 1)));
        }
    }
}

static bool read_scenario(void)
{
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file)
        return false;
    scenario.text[fread(scenario.text, 1, sizeof scenario.text - 1, file)] = '\0';
    fclose(file);
    parse(scenario.text);
    return true;
}

static const char *find(const char *section, const char *key)
{
    for (int i = 0; i < scenario.length; i++)
        if (!strcmp(scenario.entries[i].section, section) && !strcmp(scenario.entries[i].key, key))
            return scenario.entries[i].value;
    return NULL;
}

static const char *section_of(int gpu)
{
    static _Thread_local char name[16];
    snprintf(name, sizeof name, "gpu%d", gpu);
    return name;
}

static int gpu_count(void)
{
    const char *told = find("system", "count");
    int count = told ? atoi(told) : 0;
    while (!told && find(section_of(count), ""))
        count++;
    return count < GPUS_MAX ? count : GPUS_MAX;
}

static const char *system_value(const char *key)
{
    const char *told = find("system", key);
    if (told)
        return told;
    if (!strcmp(key, "driver"))
        return "580.159.04";
    if (!strcmp(key, "library"))
        return system_value("driver");
    return !strcmp(key, "cuda") ? "13000" : "";
}

static const struct fact *fact_of(const char *key)
{
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        if (!strcmp(facts[i].key, key))
            return &facts[i];
    return NULL;
}

static const char *healthy(int gpu, const char *key)
{
    static _Thread_local char value[96];
    const struct fact *fact = fact_of(key);
    snprintf(value, sizeof value, "%s", fact ? fact->healthy : "");
    for (char *mark = value; (mark = strchr(mark, '#'));)
        *mark = "0123456789abcdef"[gpu];
    return value;
}

static const char *gpu_value(int gpu, const char *key)
{
    const char *told = find(section_of(gpu), key);
    if (!told)
        told = find("gpu", key);
    return told ? told : healthy(gpu, key);
}


/* Orders: "error CODE", "hang SECONDS". */

static void hang(double seconds)
{
    sigset_t all, before;
    struct timespec until;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)seconds;
    until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        continue;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static Return obey(const char *order)
{
    int code;
    double seconds;
    if (order && sscanf(order, "error %d", &code) == 1)
        return (Return)code;
    if (order && sscanf(order, "hang %lf", &seconds) == 1)
        hang(seconds);
    return SUCCESS;
}

/* The name of a call without its version: WithFlags, _v2, or V at its end. */
static const char *unversioned(const char *call)
{
    static _Thread_local char name[96];
    snprintf(name, sizeof name, "%s", call);
    char *flags = strstr(name, "WithFlags"), *number = strstr(name, "_v"), *letter = name + strlen(name) - 1;
    if (flags)
        *flags = '\0';
    else if (number)
        *number = '\0';
    else if (*letter == 'V')
        *letter = '\0';
    return name;
}

/* Do what the scenario tells this call to do, on this GPU or in the system. */
static Return told(int gpu, const char *call)
{
    const char *group = !strncmp(call, "cu", strlen("cu"))                                   ? "cuda_calls"
                      : !strncmp(call, "nvmlDeviceGetHandle", strlen("nvmlDeviceGetHandle")) ? "handle"
                                                                                             : "calls";
    const char *names[] = {call, unversioned(call), gpu == SYSTEM ? NULL : group};
    const char *sections[] = {gpu == SYSTEM ? NULL : section_of(gpu), gpu == SYSTEM ? NULL : "gpu", "system"};
    for (int s = 0; s < 3; s++)
        for (int n = 0; sections[s] && n < 3; n++) {
            const char *order = names[n] ? find(sections[s], names[n]) : NULL;
            if (order)
                return obey(order);
        }
    return SUCCESS;
}


/* How every call begins, and how it takes a value. */

static Return enter_system(const char *call)
{
    if (!initialized)
        return UNINITIALIZED;
    return read_scenario() ? told(SYSTEM, call) : DRIVER_NOT_LOADED;
}

static Return enter(const struct device *device, const char *call)
{
    if (!initialized)
        return UNINITIALIZED;
    if (device < devices || device >= devices + GPUS_MAX)
        return INVALID_ARGUMENT;
    if (!read_scenario())
        return DRIVER_NOT_LOADED;
    return device->index < gpu_count() ? told(device->index, call) : GPU_IS_LOST;
}

/* Leave the function with the error, if there is one. */
#define TRY(expression)          \
    do {                         \
        Return tried = (expression); \
        if (tried)               \
            return tried;        \
    } while (0)

/* The version word of a structure: its size and its number. */
#define VERSION(structure, number) ((unsigned)(sizeof(structure) | (number) << 24))

static Return copy(const char *value, char *out, unsigned size)
{
    TRY(obey(value));
    if (strlen(value) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

static Return text(const struct device *device, const char *key, char *out, unsigned size)
{
    return copy(gpu_value(device->index, key), out, size);
}

static Return number(const struct device *device, const char *key, unsigned long long *out)
{
    const char *value = gpu_value(device->index, key);
    TRY(obey(value));
    *out = strtoull(value, NULL, 0);
    return SUCCESS;
}

static Return integer(const struct device *device, const char *key, unsigned *out)
{
    unsigned long long value;
    TRY(number(device, key, &value));
    *out = (unsigned)value;
    return SUCCESS;
}

static Return milliwatts(const struct device *device, const char *key, unsigned *out)
{
    const char *value = gpu_value(device->index, key);
    TRY(obey(value));
    *out = (unsigned)(strtod(value, NULL) * 1000 + 0.5);
    return SUCCESS;
}


/* The library and the system */

Return nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    if (!read_scenario())
        return DRIVER_NOT_LOADED;
    TRY(told(SYSTEM, __func__));
    for (int i = 0; i < GPUS_MAX; i++)
        devices[i].index = i;
    initialized++;
    return SUCCESS;
}

Return nvmlShutdown(void)
{
    TRY(enter_system(__func__));
    initialized--;
    return SUCCESS;
}

const char *nvmlErrorString(Return code)
{
    static const char *const texts[] = {
        "Success",
        "Uninitialized",
        "Invalid Argument",
        "Not Supported",
        "Insufficient Permissions",
        "Already Initialized",
        "Not Found",
        "Insufficient Size",
        "Insufficient External Power",
        "Driver Not Loaded",
        "Timeout",
        "Interrupt Request Issue",
        "NVML Shared Library Not Found",
        "Function Not Found",
        "Corrupted infoROM",
        "GPU is lost",
        "GPU requires reset",
        "GPU access blocked by the operating system",
        "Driver/library version mismatch",
        "In use by another client",
        "Insufficient Memory",
        "No data",
        "vGPU ECC not supported",
        "Insufficient Resources",
        "Invalid Frequency",
        "Argument version mismatch",
        "Requested functionality has been deprecated",
        "System is not in ready state",
        "No supported GPUs were found",
        "Resource not in correct state to perform requested operation",
        "Reset type is not supported for given device",
    };
    return (size_t)code < sizeof texts / sizeof *texts ? texts[code] : "Unknown Error";
}

Return nvmlSystemGetDriverVersion(char *version, unsigned size)
{
    TRY(enter_system(__func__));
    return copy(system_value("driver"), version, size);
}

/* This one answers before nvmlInit, too. */
Return nvmlSystemGetNVMLVersion(char *version, unsigned size)
{
    char own[80];
    if (!read_scenario())
        return DRIVER_NOT_LOADED;
    TRY(told(SYSTEM, __func__));
    snprintf(own, sizeof own, "13.%s", system_value("library"));
    return copy(own, version, size);
}

Return nvmlSystemGetCudaDriverVersion(int *version)
{
    TRY(enter_system(__func__));
    *version = atoi(system_value("cuda"));
    return SUCCESS;
}

Return nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    TRY(enter_system(__func__));
    *version = atoi(system_value("cuda"));
    return SUCCESS;
}


/* Finding a GPU */

Return nvmlDeviceGetCount_v2(unsigned *count)
{
    TRY(enter_system(__func__));
    *count = (unsigned)gpu_count();
    return SUCCESS;
}

static Return hand_out(int gpu, const char *call, struct device **device)
{
    TRY(told(gpu, call));
    *device = &devices[gpu];
    return SUCCESS;
}

Return nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device)
{
    TRY(enter_system(__func__));
    return (int)index < gpu_count() ? hand_out((int)index, __func__, device) : INVALID_ARGUMENT;
}

Return nvmlDeviceGetHandleByUUID(const char *uuid, struct device **device)
{
    TRY(enter_system(__func__));
    for (int gpu = 0; gpu < gpu_count(); gpu++)
        if (!strcmp(gpu_value(gpu, "uuid"), uuid))
            return hand_out(gpu, __func__, device);
    return NOT_FOUND;
}

struct address {
    unsigned domain, bus, device;
};

/* [domain:]bus:device[.function] */
static bool read_address(const char *text, struct address *address)
{
    address->domain = 0;
    return sscanf(text, "%x:%x:%x", &address->domain, &address->bus, &address->device) == 3
        || (address->domain = 0, sscanf(text, "%x:%x", &address->bus, &address->device) == 2);
}

Return nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, struct device **device)
{
    struct address wanted, own;
    TRY(enter_system(__func__));
    if (!read_address(bus_id, &wanted))
        return INVALID_ARGUMENT;
    for (int gpu = 0; gpu < gpu_count(); gpu++)
        if (read_address(gpu_value(gpu, "bus_id"), &own) && !memcmp(&wanted, &own, sizeof own))
            return hand_out(gpu, __func__, device);
    return NOT_FOUND;
}


/* One text or one number each */

#define TEXT(call, key)                                               \
    Return call(const struct device *device, char *out, unsigned size) \
    {                                                                 \
        TRY(enter(device, #call));                                    \
        return text(device, key, out, size);                          \
    }

#define INTEGER(call, key)                                \
    Return call(const struct device *device, unsigned *out) \
    {                                                     \
        TRY(enter(device, #call));                        \
        return integer(device, key, out);                 \
    }

#define MILLIWATTS(call, key)                             \
    Return call(const struct device *device, unsigned *out) \
    {                                                     \
        TRY(enter(device, #call));                        \
        return milliwatts(device, key, out);              \
    }

TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetSerial, "serial")
TEXT(nvmlDeviceGetBoardPartNumber, "board_part_number")
TEXT(nvmlDeviceGetVbiosVersion, "vbios")

INTEGER(nvmlDeviceGetArchitecture, "architecture")
INTEGER(nvmlDeviceGetPersistenceMode, "persistence_mode")
INTEGER(nvmlDeviceGetRetiredPagesPendingStatus, "pages_pending")
INTEGER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation")
INTEGER(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max")
INTEGER(nvmlDeviceGetGpuMaxPcieLinkGeneration, "pcie_generation_gpu_max")
INTEGER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
INTEGER(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max")
INTEGER(nvmlDeviceGetPcieReplayCounter, "pcie_replays")

MILLIWATTS(nvmlDeviceGetPowerUsage, "power_watts")
MILLIWATTS(nvmlDeviceGetEnforcedPowerLimit, "power_limit_watts")

Return nvmlDeviceGetCurrentClocksEventReasons(const struct device *device, unsigned long long *reasons)
{
    TRY(enter(device, __func__));
    return number(device, "clock_event_reasons", reasons);
}


/* Identity */

struct pci_info {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};

Return nvmlDeviceGetPciInfo_v3(const struct device *device, struct pci_info *info)
{
    char own[32];
    struct address address;
    TRY(enter(device, __func__));
    TRY(text(device, "bus_id", own, sizeof own));
    if (!read_address(own, &address))
        return INVALID_ARGUMENT;
    *info = (struct pci_info){
        .domain = address.domain,
        .bus = address.bus,
        .device = address.device,
        .device_id = 0x233010DE,
        .subsystem_id = 0x16C110DE,
    };
    snprintf(info->bus_id, sizeof info->bus_id, "%08X:%02X:%02X.0", address.domain, address.bus, address.device);
    snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "%04hX:%02hhX:%02hhX.0", (unsigned short)address.domain,
             (unsigned char)address.bus, (unsigned char)address.device);
    return SUCCESS;
}

Return nvmlDeviceGetCudaComputeCapability(const struct device *device, int *major, int *minor)
{
    char value[16];
    TRY(enter(device, __func__));
    TRY(text(device, "compute_capability", value, sizeof value));
    return sscanf(value, "%d.%d", major, minor) == 2 ? SUCCESS : INVALID_ARGUMENT;
}


/* Modes: what holds now, and what will after a reset */

Return nvmlDeviceGetEccMode(const struct device *device, unsigned *current, unsigned *pending)
{
    TRY(enter(device, __func__));
    TRY(integer(device, "ecc_mode", current));
    return integer(device, "ecc_mode_pending", pending);
}

Return nvmlDeviceGetMigMode(const struct device *device, unsigned *current, unsigned *pending)
{
    TRY(enter(device, __func__));
    TRY(integer(device, "mig_mode", current));
    return integer(device, "mig_mode_pending", pending);
}


/* Memory errors */

enum { MEMORY_DRAM = 2, MEMORY_SRAM = 7, MEMORY_LOCATIONS = 8 };

/* Of the kinds corrected and uncorrected, since the driver was loaded (volatile) or in the GPU's life (aggregate). */
static Return count_errors(const struct device *device, const char *memory, unsigned kind, unsigned period,
                           unsigned long long *count)
{
    static const char *const kinds[] = {"corrected", "uncorrected"}, *const periods[] = {"volatile", "aggregate"};
    char key[64];
    if (kind > 1 || period > 1)
        return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "%s_%s_%s", memory, kinds[kind], periods[period]);
    return number(device, key, count);
}

Return nvmlDeviceGetTotalEccErrors(const struct device *device, unsigned kind, unsigned period,
                                   unsigned long long *count)
{
    TRY(enter(device, __func__));
    return count_errors(device, "ecc", kind, period, count);
}

Return nvmlDeviceGetMemoryErrorCounter(const struct device *device, unsigned kind, unsigned period, unsigned location,
                                       unsigned long long *count)
{
    unsigned long long sram;
    TRY(enter(device, __func__));
    if (location >= MEMORY_LOCATIONS)
        return INVALID_ARGUMENT;
    TRY(count_errors(device, "ecc", kind, period, count));
    TRY(count_errors(device, "sram", kind, period, &sram));
    if (location != MEMORY_DRAM && location != MEMORY_SRAM)
        return NOT_SUPPORTED;
    *count = location == MEMORY_SRAM ? sram : *count - sram;
    return SUCCESS;
}

struct sram_status {
    unsigned version;
    unsigned long long aggregate_parity, aggregate_secded, aggregate_corrected;
    unsigned long long volatile_parity, volatile_secded, volatile_corrected;
    unsigned long long aggregate_l2, aggregate_sm, aggregate_pcie, aggregate_microcontroller, aggregate_other;
    unsigned threshold_exceeded;
};

Return nvmlDeviceGetSramEccErrorStatus(const struct device *device, struct sram_status *status)
{
    TRY(enter(device, __func__));
    if (status->version != VERSION(struct sram_status, 1))
        return ARGUMENT_VERSION_MISMATCH;
    *status = (struct sram_status){.version = status->version};
    TRY(number(device, "sram_corrected_volatile", &status->volatile_corrected));
    TRY(number(device, "sram_corrected_aggregate", &status->aggregate_corrected));
    TRY(number(device, "sram_uncorrected_volatile", &status->volatile_secded));
    TRY(number(device, "sram_uncorrected_aggregate", &status->aggregate_secded));
    status->aggregate_l2 = status->aggregate_secded;
    return integer(device, "sram_threshold_exceeded", &status->threshold_exceeded);
}

Return nvmlDeviceGetRemappedRows(const struct device *device, unsigned *corrected, unsigned *uncorrected,
                                 unsigned *pending, unsigned *failed)
{
    TRY(enter(device, __func__));
    TRY(integer(device, "rows_remapped_corrected", corrected));
    TRY(integer(device, "rows_remapped_uncorrected", uncorrected));
    TRY(integer(device, "remap_pending", pending));
    return integer(device, "remap_failed", failed);
}

/* Banks by the spare rows they have left. */
struct remapper_histogram {
    unsigned max, high, partial, low, none;
};

Return nvmlDeviceGetRowRemapperHistogram(const struct device *device, struct remapper_histogram *banks)
{
    TRY(enter(device, __func__));
    *banks = (struct remapper_histogram){0};
    return integer(device, "remap_banks", &banks->max);
}

/* All of them for double bit errors (cause 1). */
Return nvmlDeviceGetRetiredPages(const struct device *device, unsigned cause, unsigned *count,
                                 unsigned long long *addresses)
{
    unsigned retired, room = *count;
    TRY(enter(device, __func__));
    TRY(integer(device, "pages_retired", &retired));
    *count = cause == 1 ? retired : 0;
    if (*count > room)
        return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < *count; i++)
        addresses[i] = 0x10000ULL * (i + 1);
    return SUCCESS;
}

struct repair_status {
    unsigned version, channel_pending, tpc_pending;
};

Return nvmlDeviceGetRepairStatus(const struct device *device, struct repair_status *status)
{
    TRY(enter(device, __func__));
    if (status->version != VERSION(struct repair_status, 1))
        return ARGUMENT_VERSION_MISMATCH;
    TRY(integer(device, "channel_repair_pending", &status->channel_pending));
    return integer(device, "tpc_repair_pending", &status->tpc_pending);
}

struct unrepairable_memory {
    unsigned version, found;
};

Return nvmlDeviceGetUnrepairableMemoryFlag_v1(const struct device *device, struct unrepairable_memory *memory)
{
    TRY(enter(device, __func__));
    if (memory->version != VERSION(struct unrepairable_memory, 1))
        return ARGUMENT_VERSION_MISMATCH;
    return integer(device, "unrepairable_memory", &memory->found);
}


/* Temperature, power, load */

Return nvmlDeviceGetTemperature(const struct device *device, unsigned sensor, unsigned *celsius)
{
    TRY(enter(device, __func__));
    return sensor ? INVALID_ARGUMENT : integer(device, "temperature_celsius", celsius);
}

struct temperature {
    unsigned version, sensor;
    int celsius;
};

Return nvmlDeviceGetTemperatureV(const struct device *device, struct temperature *temperature)
{
    TRY(enter(device, __func__));
    if (temperature->version != VERSION(struct temperature, 1))
        return ARGUMENT_VERSION_MISMATCH;
    return temperature->sensor ? INVALID_ARGUMENT
                               : integer(device, "temperature_celsius", (unsigned *)&temperature->celsius);
}

Return nvmlDeviceGetTemperatureThreshold(const struct device *device, unsigned threshold, unsigned *celsius)
{
    static const char *const keys[] = {"shutdown_celsius", "slowdown_celsius", "memory_max_celsius", "gpu_max_celsius"};
    TRY(enter(device, __func__));
    return threshold < sizeof keys / sizeof *keys ? integer(device, keys[threshold], celsius) : NOT_SUPPORTED;
}

struct margin_temperature {
    unsigned version;
    int celsius;
};

Return nvmlDeviceGetMarginTemperature(const struct device *device, struct margin_temperature *margin)
{
    unsigned now, max;
    TRY(enter(device, __func__));
    if (margin->version != VERSION(struct margin_temperature, 1))
        return ARGUMENT_VERSION_MISMATCH;
    TRY(integer(device, "temperature_celsius", &now));
    TRY(integer(device, "gpu_max_celsius", &max));
    margin->celsius = (int)max - (int)now;
    return SUCCESS;
}

Return nvmlDeviceGetPowerManagementLimitConstraints(const struct device *device, unsigned *min, unsigned *max)
{
    TRY(enter(device, __func__));
    TRY(milliwatts(device, "power_limit_min_watts", min));
    return milliwatts(device, "power_limit_max_watts", max);
}

struct utilization {
    unsigned gpu, memory;
};

Return nvmlDeviceGetUtilizationRates(const struct device *device, struct utilization *percent)
{
    TRY(enter(device, __func__));
    TRY(integer(device, "utilization_percent", &percent->gpu));
    return integer(device, "memory_utilization_percent", &percent->memory);
}


/* Processes and the memory that they hold */

struct process {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};

/* Read pid:name:MiB, ... (a name may have colons) into as many as there is room for; return how many there are. */
static unsigned read_processes(const char *value, struct process *processes, unsigned room)
{
    unsigned count = 0;
    for (const char *end; *value; value = *end ? end + 1 : end) {
        end = value + strcspn(value, ",");
        const char *used = memrchr(value, ':', (size_t)(end - value));
        if (used && count++ < room)
            processes[count - 1] = (struct process){
                .pid = (unsigned)strtoul(value, NULL, 10),
                .used = used[1] == '-' ? NOT_AVAILABLE : strtoull(used + 1, NULL, 10) * MIB,
                .gpu_instance = ~0U,
                .compute_instance = ~0U,
            };
    }
    return count;
}

Return nvmlDeviceGetComputeRunningProcesses_v3(const struct device *device, unsigned *count, struct process *processes)
{
    unsigned room = *count;
    TRY(enter(device, __func__));
    const char *value = gpu_value(device->index, "processes");
    TRY(obey(value));
    *count = read_processes(value, processes, room);
    return *count > room ? INSUFFICIENT_SIZE : SUCCESS;
}

static unsigned long long used_mib(int gpu)
{
    struct process processes[64];
    unsigned count = read_processes(gpu_value(gpu, "processes"), processes, 64);
    unsigned long long sum = 0;
    for (unsigned i = 0; i < count && i < 64; i++)
        sum += processes[i].used == NOT_AVAILABLE ? 0 : processes[i].used / MIB;
    return sum;
}

struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

static Return memory(const struct device *device, struct memory_v2 *memory)
{
    unsigned long long total, reserved, used;
    TRY(number(device, "memory_total_mib", &total));
    TRY(number(device, "memory_reserved_mib", &reserved));
    TRY(number(device, "memory_used_mib", &used));
    if (!*gpu_value(device->index, "memory_used_mib"))
        used = used_mib(device->index);
    memory->total = total * MIB;
    memory->reserved = reserved * MIB;
    memory->used = used * MIB;
    memory->free = (total - reserved - used) * MIB;
    return SUCCESS;
}

Return nvmlDeviceGetMemoryInfo_v2(const struct device *device, struct memory_v2 *info)
{
    TRY(enter(device, __func__));
    if (info->version != VERSION(struct memory_v2, 2))
        return FUNCTION_NOT_FOUND;
    return memory(device, info);
}

struct memory_v1 {
    unsigned long long total, free, used;
};

Return nvmlDeviceGetMemoryInfo(const struct device *device, struct memory_v1 *info)
{
    struct memory_v2 own;
    TRY(enter(device, __func__));
    TRY(memory(device, &own));
    *info = (struct memory_v1){own.total, own.free, own.used + own.reserved};
    return SUCCESS;
}


/* NVLink and the fabric */

enum { NVLINK_COUNTERS = 5 };

/* Whether there is such a link. */
static Return check_link(const struct device *device, unsigned link)
{
    unsigned total;
    TRY(integer(device, "nvlinks_total", &total));
    if (!total)
        return NOT_SUPPORTED;
    return link < total ? SUCCESS : INVALID_ARGUMENT;
}

Return nvmlDeviceGetNvLinkState(const struct device *device, unsigned link, unsigned *active)
{
    unsigned links;
    TRY(enter(device, __func__));
    TRY(check_link(device, link));
    TRY(integer(device, "nvlinks", &links));
    *active = link < links;
    return SUCCESS;
}

Return nvmlDeviceGetNvLinkErrorCounter(const struct device *device, unsigned link, unsigned counter,
                                       unsigned long long *count)
{
    TRY(enter(device, __func__));
    TRY(check_link(device, link));
    if (counter >= NVLINK_COUNTERS)
        return INVALID_ARGUMENT;
    TRY(number(device, "nvlink_errors", count));
    if (link || counter)
        *count = 0;
    return SUCCESS;
}

struct fabric_v2 {
    unsigned version;
    unsigned char cluster_uuid[16];
    unsigned status, clique_id, state, health_mask;
};

struct fabric_v3 {
    struct fabric_v2 v2;
    unsigned char health_summary;
};

Return nvmlDeviceGetGpuFabricInfoV(const struct device *device, struct fabric_v3 *info)
{
    struct fabric_v2 *fabric = &info->v2;
    unsigned summary;
    TRY(enter(device, __func__));
    if (fabric->version != VERSION(struct fabric_v2, 2) && fabric->version != VERSION(struct fabric_v3, 3))
        return ARGUMENT_VERSION_MISMATCH;
    *fabric = (struct fabric_v2){.version = fabric->version};
    TRY(integer(device, "fabric_state", &fabric->state));
    TRY(integer(device, "fabric_status", &fabric->status));
    TRY(integer(device, "fabric_health_mask", &fabric->health_mask));
    TRY(integer(device, "fabric_health_summary", &summary));
    if (fabric->version == VERSION(struct fabric_v3, 3))
        info->health_summary = (unsigned char)summary;
    return SUCCESS;
}


/* Field values: one call for many, each with a code of its own */

enum { UNSIGNED_INT = 1, UNSIGNED_LONG_LONG = 3 };

struct field {
    unsigned id, scope;
    int64_t timestamp, latency;
    unsigned type;
    Return code;
    unsigned long long value;
};

static Return read_field(const struct device *device, struct field *field)
{
    static const struct known {
        unsigned id, type;
        const char *key;
    } known[] = {
        {82, UNSIGNED_INT, "memory_temperature_celsius"},
        {94, UNSIGNED_INT, "pcie_replays"},
        {142, UNSIGNED_LONG_LONG, "rows_remapped_corrected"},
        {143, UNSIGNED_LONG_LONG, "rows_remapped_uncorrected"},
        {144, UNSIGNED_LONG_LONG, "remap_pending"},
        {145, UNSIGNED_LONG_LONG, "remap_failed"},
        {230, UNSIGNED_INT, "recovery_action"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].id == field->id) {
            field->type = known[i].type;
            return number(device, known[i].key, &field->value);
        }
    return INVALID_ARGUMENT;
}

Return nvmlDeviceGetFieldValues(const struct device *device, int count, struct field *fields)
{
    struct timeval now;
    TRY(enter(device, __func__));
    if (count < 1)
        return INVALID_ARGUMENT;
    gettimeofday(&now, NULL);
    for (int i = 0; i < count; i++) {
        fields[i] = (struct field){.id = fields[i].id, .scope = fields[i].scope};
        fields[i].code = read_field(device, &fields[i]);
        fields[i].timestamp = fields[i].code == INVALID_ARGUMENT ? 0 : now.tv_sec * 1000000LL + now.tv_usec;
    }
    return SUCCESS;
}


/* For the fake nvidia-smi, which asks this library as the real one does, and the fake libcuda.so.1: a value of a GPU or
   of the system (-1), or "error CODE" where the call that it comes by fails. */
const char *fakeValue(int gpu, const char *key)
{
    static _Thread_local char value[4096];
    const struct fact *fact = fact_of(key);
    if (!read_scenario())
        return "";
    Return code = fact && gpu != SYSTEM ? told(gpu, fact->call) : SUCCESS;
    if (code)
        snprintf(value, sizeof value, "error %d", code);
    else if (gpu == SYSTEM && !strcmp(key, "count"))
        snprintf(value, sizeof value, "%d", gpu_count());
    else
        snprintf(value, sizeof value, "%s", gpu == SYSTEM ? system_value(key) : gpu_value(gpu, key));
    if (gpu != SYSTEM && !strcmp(key, "memory_used_mib") && !*value)
        snprintf(value, sizeof value, "%llu", used_mib(gpu));
    obey(value);
    return value;
}

/* ... and the code that a call returns. */
int fakeTold(int gpu, const char *call)
{
    return read_scenario() ? (int)told(gpu, call) : DRIVER_NOT_LOADED;
}
