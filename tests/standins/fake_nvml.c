/* A TEST STAND-IN for NVIDIA's libnvidia-ml.so.1, for machines without a GPU. Not NVIDIA code; the functions follow
 * NVML's public API reference, as far as pynvml, nvitop and gpustat ask. Devices and faults come from the text file
 * $FAKE_NVML_STATE, read anew whenever it changes; `nvml_state.py` writes it, and its docstring explains the keys.
 * As in the real library, the GPUs there are become known at nvmlInit: one that is plugged in later needs a new nvmlInit,
 * one that disappears is lost, and after a restart of the driver every call fails until nvmlShutdown and nvmlInit.
 * Build: gcc -shared -fPIC -pthread -o libnvidia-ml.so.1 fake_nvml.c */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned int u32;
typedef unsigned long long u64;
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15, UNKNOWN = 999 };
enum { MAX_DEVICES = 256, MAX_KEYS = 48, MAX_PROCESSES = 64, ALL = 0xFFFFFFFF };

/* The state: a list of sections, [system], [gpu], and after a [gpu] its [mig]s --------------------------------- */

typedef struct { char kind[8]; int keys; char *key[MAX_KEYS], *value[MAX_KEYS]; } Section;
typedef struct { char uuid[96]; int of_init; } Device; /* what a handle points to; never freed */

static Section sections[MAX_DEVICES];
static int section_count, references, restarts_at_init;
static Device devices[MAX_DEVICES];
static int device_count;
static struct stat last;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static char *trimmed(char *text) {
    while (*text == ' ' || *text == '\t') text++;
    char *end = text + strlen(text);
    while (end > text && strchr(" \t\r\n", end[-1])) *--end = 0;
    return text;
}

static void forget(void) {
    for (int i = 0; i < section_count; i++)
        for (int k = 0; k < sections[i].keys; k++) { free(sections[i].key[k]); free(sections[i].value[k]); }
    memset(sections, 0, sizeof sections);
    section_count = 0;
}

/* The writer replaces the file, so inode, size and time together tell a new one. */
static int load(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    struct stat now;
    if (!path || stat(path, &now)) return DRIVER_NOT_LOADED;
    if (section_count && now.st_ino == last.st_ino && now.st_size == last.st_size
        && !memcmp(&now.st_mtim, &last.st_mtim, sizeof now.st_mtim)) return SUCCESS;
    FILE *file = fopen(path, "re");
    if (!file) return DRIVER_NOT_LOADED;
    char *line = NULL;
    size_t room = 0;
    forget();
    strcpy(sections[section_count++].kind, "system");
    last = now;
    while (getline(&line, &room, file) > 0) {
        char *text = trimmed(line), *equals;
        Section *section = &sections[section_count - 1];
        if (*text == '[') {
            text[strcspn(text, "]")] = 0;
            if (strcmp(text + 1, "system") && section_count < MAX_DEVICES)
                snprintf(sections[section_count++].kind, sizeof section->kind, "%s", text + 1);
        } else if (*text != '#' && (equals = strchr(text, '=')) && section->keys < MAX_KEYS) {
            *equals = 0;
            section->key[section->keys] = strdup(trimmed(text));
            section->value[section->keys++] = strdup(trimmed(equals + 1));
        }
    }
    free(line);
    fclose(file);
    return SUCCESS;
}

static const char *text_of(const Section *section, const char *key) {
    for (int i = 0; i < section->keys; i++) if (!strcmp(section->key[i], key)) return section->value[i];
    return NULL;
}
static u64 number(const Section *section, const char *key, u64 otherwise) {
    const char *value = text_of(section, key);
    return value ? strtoull(value, NULL, 0) : otherwise;
}
static u64 error_of(const Section *section, const char *function) {
    char key[96];
    snprintf(key, sizeof key, "error.%s", function);
    return number(section, key, SUCCESS);
}
static int is(const Section *section, const char *kind) { return !strcmp(section->kind, kind); }

static Section *find(const char *uuid) {
    for (int i = 1; i < section_count; i++) {
        const char *value = text_of(&sections[i], "uuid");
        if (value && !strcmp(value, uuid)) return &sections[i];
    }
    return NULL;
}
static Section *parent_of(Section *section) {
    while (section > sections && !is(section, "gpu")) section--;
    return section;
}
/* The GPU's `index`-th MIG device. */
static Section *child_of(Section *gpu, u32 index) {
    for (Section *next = gpu + 1; next < sections + section_count && is(next, "mig"); next++)
        if (!index--) return next;
    return NULL;
}
static Device *handle_of(const char *uuid, int of_init) {
    for (int i = 0; i < device_count; i++)
        if (!strcmp(devices[i].uuid, uuid)) { devices[i].of_init |= of_init; return &devices[i]; }
    if (device_count == MAX_DEVICES) return NULL;
    snprintf(devices[device_count].uuid, sizeof devices->uuid, "%s", uuid);
    devices[device_count].of_init = of_init;
    return &devices[device_count++];
}
/* The `index`-th GPU that nvmlInit found. */
static Device *gpu_at(u32 index) {
    for (int i = 0; i < device_count; i++)
        if (devices[i].of_init && !index--) return &devices[i];
    return NULL;
}

/* Every call: take the lock, read the state, hang and fail as it says --------------------------------------- */

static int enter(const char *function) {
    pthread_mutex_lock(&lock);
    for (;;) {
        int error = load();
        if (error) return error;
        const char *hanging = text_of(&sections[0], "hang");
        if (!hanging || (strcmp(hanging, function) && strcmp(hanging, "*"))) break;
        pthread_mutex_unlock(&lock);
        usleep(20000);
        pthread_mutex_lock(&lock);
    }
    if (strncmp(function, "nvmlInit", 8)) {
        if (!references) return UNINITIALIZED;
        if ((int)number(&sections[0], "driver_restarts", 0) != restarts_at_init) return UNKNOWN;
    }
    return (int)error_of(&sections[0], function);
}
static int leave(int result) { pthread_mutex_unlock(&lock); return result; }
#define ENTER do { int error_ = enter(__func__); if (error_) return leave(error_); } while (0)

static int section_of(Device *device, const char *function, Section **out) {
    if (device < devices || device >= devices + device_count) return INVALID_ARGUMENT;
    Section *section = find(device->uuid);
    if (!section) return device->of_init ? GPU_IS_LOST : INVALID_ARGUMENT;
    if (number(parent_of(section), "lost", 0)) return GPU_IS_LOST;
    *out = section;
    return (int)error_of(section, function);
}
/* Declares `section`, the state of `device`. */
#define ENTER_DEVICE ENTER; Section *section; do { int error_ = section_of(device, __func__, &section); if (error_) return leave(error_); } while (0)

static int copied(const char *text, char *out, u32 size) {
    if (!text) return NOT_SUPPORTED;
    if (strlen(text) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return SUCCESS;
}

#define TEXT(function, key) \
    int function(Device *device, char *out, u32 size) { ENTER_DEVICE; return leave(copied(text_of(section, key), out, size)); }
#define NUMBER(function, key) \
    int function(Device *device, u32 *out) { ENTER_DEVICE; if (!text_of(section, key)) return leave(NOT_SUPPORTED); *out = (u32)number(section, key, 0); return leave(SUCCESS); }
#define WITH_CHOICE(function, key) \
    int function(Device *device, u32 choice, u32 *out) { (void)choice; ENTER_DEVICE; if (!text_of(section, key)) return leave(NOT_SUPPORTED); *out = (u32)number(section, key, 0); return leave(SUCCESS); }
#define UNSUPPORTED(function) \
    int function(Device *device) { ENTER_DEVICE; return leave(NOT_SUPPORTED); }

/* Library and system ----------------------------------------------------------------------------------------- */

int nvmlInitWithFlags(u32 flags) {
    (void)flags;
    ENTER;
    int error = (int)number(&sections[0], "init_error", SUCCESS);
    if (error) return leave(error);
    if (!references++) {
        restarts_at_init = (int)number(&sections[0], "driver_restarts", 0);
        for (int i = 0; i < device_count; i++) devices[i].of_init = 0;
        for (int i = 1; i < section_count; i++)
            if (is(&sections[i], "gpu") && text_of(&sections[i], "uuid")) handle_of(text_of(&sections[i], "uuid"), 1);
    }
    return leave(SUCCESS);
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    return leave(references ? (references--, SUCCESS) : UNINITIALIZED);
}
const char *nvmlErrorString(int code) {
    switch (code) {
        case UNINITIALIZED: return "Uninitialized";
        case INVALID_ARGUMENT: return "Invalid Argument";
        case NOT_SUPPORTED: return "Not Supported";
        case NOT_FOUND: return "Not Found";
        case DRIVER_NOT_LOADED: return "Driver Not Loaded";
        case TIMEOUT: return "Timeout";
        case GPU_IS_LOST: return "GPU is lost";
        default: return "Unknown Error";
    }
}
int nvmlSystemGetDriverVersion(char *out, u32 size) { ENTER; return leave(copied(text_of(&sections[0], "driver_version"), out, size)); }
int nvmlSystemGetNVMLVersion(char *out, u32 size) { ENTER; return leave(copied(text_of(&sections[0], "nvml_version"), out, size)); }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { ENTER; *out = (int)number(&sections[0], "cuda_version", 12080); return leave(SUCCESS); }
int nvmlSystemGetCudaDriverVersion(int *out) { return nvmlSystemGetCudaDriverVersion_v2(out); }

/* Devices ---------------------------------------------------------------------------------------------------- */

int nvmlDeviceGetCount_v2(u32 *out) {
    ENTER;
    for (*out = 0; gpu_at(*out); ++*out) {}
    return leave(SUCCESS);
}
int nvmlDeviceGetHandleByIndex_v2(u32 index, Device **out) {
    ENTER;
    Section *section;
    Device *device = gpu_at(index);
    if (!device) return leave(INVALID_ARGUMENT);
    *out = device;
    return leave(section_of(device, __func__, &section));
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Device **out) {
    ENTER;
    Section *section = find(uuid);
    if (!section) return leave(NOT_FOUND);
    *out = handle_of(uuid, 0);
    return leave(section_of(*out, __func__, &section));
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, Device **out) {
    ENTER;
    for (u32 i = 0; (*out = gpu_at(i)); i++) {
        Section *section = find((*out)->uuid);
        const char *own = section ? text_of(section, "bus_id") : NULL;
        if (own && !strcasecmp(own, bus)) return leave(SUCCESS);
    }
    return leave(NOT_FOUND);
}
int nvmlDeviceGetIndex(Device *device, u32 *out) {
    ENTER_DEVICE;
    for (*out = 0; gpu_at(*out) && gpu_at(*out) != device; ++*out) {}
    return leave(is(section, "gpu") ? SUCCESS : INVALID_ARGUMENT);
}
TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetSerial, "serial")
TEXT(nvmlDeviceGetVbiosVersion, "vbios")
NUMBER(nvmlDeviceGetMinorNumber, "minor")
NUMBER(nvmlDeviceGetFanSpeed, "fan")
NUMBER(nvmlDeviceGetPowerUsage, "power_mw")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw")
NUMBER(nvmlDeviceGetPowerManagementLimit, "power_limit_mw")
NUMBER(nvmlDeviceGetPerformanceState, "pstate")
NUMBER(nvmlDeviceGetPersistenceMode, "persistence")
NUMBER(nvmlDeviceGetComputeMode, "compute_mode")
NUMBER(nvmlDeviceGetDisplayActive, "display_active")
NUMBER(nvmlDeviceGetDisplayMode, "display_mode")
WITH_CHOICE(nvmlDeviceGetTemperature, "temperature")
WITH_CHOICE(nvmlDeviceGetClockInfo, "clock_mhz")
WITH_CHOICE(nvmlDeviceGetMaxClockInfo, "clock_mhz")
WITH_CHOICE(nvmlDeviceGetPcieThroughput, "pcie_kb")
UNSUPPORTED(nvmlDeviceGetFieldValues)
UNSUPPORTED(nvmlDeviceGetDriverModel)
UNSUPPORTED(nvmlDeviceGetDriverModel_v2)
UNSUPPORTED(nvmlDeviceGetConfComputeMemSizeInfo)

typedef struct { u64 total, free, used; } Memory;
typedef struct { u32 version; u64 total, reserved, free, used; } Memory2;
int nvmlDeviceGetMemoryInfo(Device *device, Memory *out) {
    ENTER_DEVICE;
    /* Version 1 counts what the driver keeps for itself as used. */
    out->total = number(section, "memory_total", 0);
    out->used = number(section, "memory_used", 0) + number(section, "memory_reserved", 0);
    out->free = out->total - out->used;
    return leave(SUCCESS);
}
int nvmlDeviceGetBAR1MemoryInfo(Device *device, Memory *out) {
    ENTER_DEVICE;
    *out = (Memory){256 << 20, 255 << 20, 1 << 20};
    return leave(SUCCESS);
}
int nvmlDeviceGetMemoryInfo_v2(Device *device, Memory2 *out) {
    ENTER_DEVICE;
    if (out->version != (sizeof *out | 2u << 24)) return leave(25 /* ARGUMENT_VERSION_MISMATCH */);
    out->total = number(section, "memory_total", 0);
    out->reserved = number(section, "memory_reserved", 0);
    out->used = number(section, "memory_used", 0);
    out->free = out->total - out->reserved - out->used;
    return leave(SUCCESS);
}

typedef struct { u32 gpu, memory; } Utilization;
int nvmlDeviceGetUtilizationRates(Device *device, Utilization *out) {
    ENTER_DEVICE;
    if (!text_of(section, "utilization")) return leave(NOT_SUPPORTED); /* as for MIG devices and their GPUs */
    *out = (Utilization){(u32)number(section, "utilization", 0), (u32)number(section, "memory_utilization", 0)};
    return leave(SUCCESS);
}
static int coder(Device *device, u32 *utilization, u32 *period_us, const char *function) {
    Section *section;
    int error = section_of(device, function, &section);
    *utilization = 0, *period_us = 167000;
    return error;
}
int nvmlDeviceGetEncoderUtilization(Device *device, u32 *u, u32 *p) { ENTER; return leave(coder(device, u, p, __func__)); }
int nvmlDeviceGetDecoderUtilization(Device *device, u32 *u, u32 *p) { ENTER; return leave(coder(device, u, p, __func__)); }

int nvmlDeviceGetTotalEccErrors(Device *device, u32 uncorrected, u32 aggregate, u64 *out) {
    ENTER_DEVICE;
    char key[40];
    snprintf(key, sizeof key, "ecc_%s_%s", aggregate ? "aggregate" : "volatile", uncorrected ? "uncorrected" : "corrected");
    if (!text_of(section, key)) return leave(NOT_SUPPORTED);
    *out = number(section, key, 0);
    return leave(SUCCESS);
}
int nvmlDeviceGetCurrentClocksEventReasons(Device *device, u64 *out) {
    ENTER_DEVICE;
    *out = number(section, "clocks_event_reasons", 0);
    return leave(SUCCESS);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, u64 *out) { return nvmlDeviceGetCurrentClocksEventReasons(device, out); }
int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    ENTER_DEVICE;
    *major = 8, *minor = 0;
    return leave(SUCCESS);
}

typedef struct { char legacy[16]; u32 domain, bus, device, device_id, subsystem_id; char bus_id[32]; } Pci;
int nvmlDeviceGetPciInfo_v3(Device *device, Pci *out) {
    ENTER_DEVICE;
    const char *bus = text_of(section, "bus_id");
    memset(out, 0, sizeof *out);
    if (!bus) return leave(NOT_SUPPORTED);
    snprintf(out->bus_id, sizeof out->bus_id, "%s", bus);
    snprintf(out->legacy, sizeof out->legacy, "%s", bus + 4);
    sscanf(bus, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    return leave(SUCCESS);
}

/* MIG -------------------------------------------------------------------------------------------------------- */

int nvmlDeviceGetMigMode(Device *device, u32 *current, u32 *pending) {
    ENTER_DEVICE;
    if (!text_of(section, "mig_mode")) return leave(NOT_SUPPORTED);
    *current = *pending = (u32)number(section, "mig_mode", 0);
    return leave(SUCCESS);
}
int nvmlDeviceGetMaxMigDeviceCount(Device *device, u32 *out) {
    ENTER_DEVICE;
    *out = number(section, "mig_mode", 0) ? 7 : 0;
    return leave(SUCCESS);
}
int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, u32 index, Device **out) {
    ENTER_DEVICE;
    Section *child = child_of(section, index);
    if (!child) return leave(NOT_FOUND);
    *out = handle_of(text_of(child, "uuid"), 0);
    return leave(SUCCESS);
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *device, Device **out) {
    ENTER_DEVICE;
    if (!is(section, "mig")) return leave(INVALID_ARGUMENT);
    *out = handle_of(text_of(parent_of(section), "uuid"), 0);
    return leave(SUCCESS);
}
int nvmlDeviceIsMigDeviceHandle(Device *device, u32 *out) { ENTER_DEVICE; *out = is(section, "mig"); return leave(SUCCESS); }
NUMBER(nvmlDeviceGetGpuInstanceId, "gpu_instance")
NUMBER(nvmlDeviceGetComputeInstanceId, "compute_instance")

typedef struct { u32 multiprocessors, copy, decoders, encoders, jpeg, ofa, gpu_slices, compute_slices; u64 memory_mb; } Attributes;
int nvmlDeviceGetAttributes_v2(Device *device, Attributes *out) {
    ENTER_DEVICE;
    if (!is(section, "mig")) return leave(NOT_SUPPORTED);
    memset(out, 0, sizeof *out);
    out->gpu_slices = out->compute_slices = (u32)number(section, "slices", 1);
    out->memory_mb = number(section, "memory_total", 0) >> 20;
    return leave(SUCCESS);
}

/* Processes: `processes = PID:BYTES[:SM_PERCENT] …`; a GPU in MIG mode shows those of its MIG devices ---------------------- */

typedef struct { u32 pid; u64 used; u32 gpu_instance, compute_instance; } Process;
/* What the state says of a process's SM use; `otherwise` where it says nothing. */
static u32 sm_of(Section *section, u32 pid, u32 otherwise) {
    char *list = strdup(text_of(section, "processes")), *rest = list, *item;
    while ((item = strsep(&rest, " "))) {
        char *first = strchr(item, ':'), *second = first ? strchr(first + 1, ':') : NULL;
        if (second && strtoul(item, NULL, 10) == pid) otherwise = (u32)strtoul(second + 1, NULL, 10);
    }
    free(list);
    return otherwise;
}
static u32 add_processes(Section *section, const char *key, Process *out, u32 count) {
    int mig = is(section, "mig");
    char *list = strdup(text_of(section, key) ? text_of(section, key) : ""), *rest = list, *item;
    while ((item = strsep(&rest, " ")) && count < MAX_PROCESSES) {
        Process process = {0, ~0ull, ALL, ALL}; /* ~0 is "not available" */
        if (sscanf(item, "%u:%llu", &process.pid, &process.used) < 1) continue;
        if (mig) process.gpu_instance = (u32)number(section, "gpu_instance", 0), process.compute_instance = (u32)number(section, "compute_instance", 0);
        out[count++] = process;
    }
    free(list);
    return count;
}
static int processes(Section *section, const char *key, u32 *count, Process *out) {
    Process found[MAX_PROCESSES];
    u32 room = *count, all = add_processes(section, key, found, 0);
    Section *child;
    for (u32 i = 0; is(section, "gpu") && (child = child_of(section, i)); i++) all = add_processes(child, key, found, all);
    *count = all;
    if (!all) return SUCCESS;
    if (!out || room < all) return INSUFFICIENT_SIZE;
    memcpy(out, found, all * sizeof *out);
    return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, u32 *count, Process *out) { ENTER_DEVICE; return leave(processes(section, "processes", count, out)); }
int nvmlDeviceGetComputeRunningProcesses_v2(Device *device, u32 *count, Process *out) { return nvmlDeviceGetComputeRunningProcesses_v3(device, count, out); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, u32 *count, Process *out) { ENTER_DEVICE; return leave(processes(section, "graphics_processes", count, out)); }
int nvmlDeviceGetGraphicsRunningProcesses_v2(Device *device, u32 *count, Process *out) { return nvmlDeviceGetGraphicsRunningProcesses_v3(device, count, out); }
int nvmlDeviceGetMPSComputeRunningProcesses_v3(Device *device, u32 *count, Process *out) { ENTER_DEVICE; return leave(processes(section, "mps_processes", count, out)); }

typedef struct { u32 pid; u64 time_us; u32 sm, memory, encoder, decoder; } Sample;
int nvmlDeviceGetProcessUtilization(Device *device, Sample *out, u32 *count, u64 since) {
    (void)since;
    ENTER_DEVICE;
    Process found[MAX_PROCESSES];
    u32 room = *count, all = add_processes(section, "processes", found, 0);
    *count = all;
    if (!all) return leave(NOT_FOUND);
    if (!out || room < all) return leave(INSUFFICIENT_SIZE);
    for (u32 i = 0; i < all; i++)
        out[i] = (Sample){found[i].pid, (u64)time(NULL) * 1000000,
                          sm_of(section, found[i].pid, (u32)number(section, "utilization", 0) / all), 0, 0, 0};
    return leave(SUCCESS);
}

/* Events: `xids = CODE CODE@GPU_INSTANCE …`, a list that only grows. A set sees what comes after it registered. */

typedef struct { u64 mask[MAX_DEVICES]; int seen[MAX_DEVICES]; } EventSet;
typedef struct { Device *device; u64 type, data; u32 gpu_instance, compute_instance; } Event;
enum { XID = 8 };

static int xids(const Section *section, int index, Event *out) {
    char *list = strdup(text_of(section, "xids") ? text_of(section, "xids") : ""), *rest = list, *item;
    int count = 0;
    while ((item = strsep(&rest, " "))) {
        u64 code;
        u32 instance = ALL;
        if (sscanf(item, "%llu@%u", &code, &instance) < 1) continue;
        if (count++ == index) out->data = code, out->gpu_instance = instance, out->compute_instance = instance == ALL ? ALL : 0;
    }
    free(list);
    return count;
}
int nvmlEventSetCreate(EventSet **out) { ENTER; *out = calloc(1, sizeof **out); return leave(SUCCESS); }
int nvmlEventSetFree(EventSet *set) { free(set); return SUCCESS; }
int nvmlDeviceGetSupportedEventTypes(Device *device, u64 *out) { ENTER_DEVICE; *out = number(section, "event_types", 1 | 2 | XID); return leave(SUCCESS); }
int nvmlDeviceRegisterEvents(Device *device, u64 mask, EventSet *set) {
    ENTER_DEVICE;
    Event ignored;
    if (is(section, "mig")) return leave(INVALID_ARGUMENT);
    set->mask[device - devices] |= mask;
    set->seen[device - devices] = xids(section, -1, &ignored);
    return leave(SUCCESS);
}
int nvmlEventSetWait_v2(EventSet *set, Event *out, u32 timeout_ms) {
    for (u32 waited = 0;; waited += 20) {
        ENTER;
        for (int i = 0; i < device_count; i++) {
            Section *section = find(devices[i].uuid); /* also of a lost GPU: that it was lost is such an event */
            if (!section || !(set->mask[i] & XID) || xids(section, -1, out) <= set->seen[i]) continue;
            xids(section, set->seen[i]++, out);
            out->device = &devices[i];
            out->type = XID;
            return leave(SUCCESS);
        }
        pthread_mutex_unlock(&lock);
        if (waited >= timeout_ms) return TIMEOUT;
        usleep(20000);
    }
}
