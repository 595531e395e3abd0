/* A TEST STAND-IN for NVIDIA's libnvidia-ml.so.1, for machines without a GPU. Not NVIDIA code; the functions
 * follow NVML's public API reference. It shows the GPUs of the text file $FAKE_NVML_STATE, read anew at each
 * nvmlInit: a line `init_error N` makes nvmlInit fail with code N; every other line is a GPU,
 * `UUID MEMORY_BYTES LOST NAME…` (LOST 1: every question about it fails with "GPU is lost").
 * Build: gcc -shared -fPIC -o libnvidia-ml.so.1 fake_nvml.c */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };
enum { MAX_GPUS = 64 };

typedef struct { char uuid[96], name[96]; unsigned long long memory; int lost; } Gpu;
typedef struct { unsigned long long total, free, used; } Memory;

static Gpu gpus[MAX_GPUS];
static unsigned count, references;

static int load(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    int error = SUCCESS;
    if (!file) return DRIVER_NOT_LOADED;
    count = 0;
    while (fgets(line, sizeof line, file)) {
        Gpu gpu = {0};
        if (sscanf(line, "init_error %d", &error) == 1) continue;
        if (count < MAX_GPUS && sscanf(line, "%95s %llu %d %95[^\n]", gpu.uuid, &gpu.memory, &gpu.lost, gpu.name) == 4)
            gpus[count++] = gpu;
    }
    fclose(file);
    return error;
}

static int copy(const Gpu *gpu, const char *text, char *out, unsigned size) {
    if (gpu->lost) return GPU_IS_LOST;
    if (strlen(text) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    int error = load();
    (void)flags;
    if (error == SUCCESS) references++;
    return error;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return references ? (references--, SUCCESS) : UNINITIALIZED; }
const char *nvmlErrorString(int code) { return code == GPU_IS_LOST ? "GPU is lost" : code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "stand-in error"; }

int nvmlDeviceGetCount_v2(unsigned *out) { *out = count; return references ? SUCCESS : UNINITIALIZED; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **out) {
    if (!references) return UNINITIALIZED;
    if (index >= count) return INVALID_ARGUMENT;
    *out = &gpus[index];
    return SUCCESS;
}
int nvmlDeviceGetUUID(const Gpu *gpu, char *out, unsigned size) { return copy(gpu, gpu->uuid, out, size); }
int nvmlDeviceGetName(const Gpu *gpu, char *out, unsigned size) { return copy(gpu, gpu->name, out, size); }
int nvmlDeviceGetMemoryInfo(const Gpu *gpu, Memory *out) {
    if (gpu->lost) return GPU_IS_LOST;
    *out = (Memory){gpu->memory, gpu->memory, 0};
    return SUCCESS;
}
