/*
 * The library, linked; or with -DLOADED by dlopen(argv[1], RTLD_LOCAL), as runtimes do it, without its header. LOAD()
 * is the first thing that main does, and takes that word away.
 */

#ifndef LOADED
#include <libkrun.h>
#define LOAD(argc, argv)
#else
#include <dlfcn.h>
#include <stdint.h>
#include <stddef.h>
#include <stdbool.h>
#include <unistd.h>
static void *library;
#define F(name, ...) ((int32_t(*)(__VA_ARGS__))dlsym(library, #name))
#define krun_create_ctx F(krun_create_ctx, void)
#define krun_free_ctx F(krun_free_ctx, uint32_t)
#define krun_set_vm_config F(krun_set_vm_config, uint32_t, uint8_t, uint32_t)
#define krun_set_exec F(krun_set_exec, uint32_t, const char *, const char *const *, const char *const *)
#define krun_set_workdir F(krun_set_workdir, uint32_t, const char *)
#define krun_add_virtiofs F(krun_add_virtiofs, uint32_t, const char *, const char *)
#define krun_fs_add_overlay_file \
    F(krun_fs_add_overlay_file, uint32_t, const char *, const char *, const uint8_t *, size_t, uint32_t, bool)
#define krun_set_log_level F(krun_set_log_level, uint32_t)
#define krun_set_root F(krun_set_root, uint32_t, const char *)
#define krun_disable_implicit_vsock F(krun_disable_implicit_vsock, uint32_t)
#define krun_disable_implicit_init F(krun_disable_implicit_init, uint32_t)
#define krun_disable_implicit_console F(krun_disable_implicit_console, uint32_t)
#define krun_add_virtio_console_default F(krun_add_virtio_console_default, uint32_t, int, int, int)
#define krun_fs_add_overlay_dir F(krun_fs_add_overlay_dir, uint32_t, const char *, const char *, uint32_t)
#define krun_set_kernel F(krun_set_kernel, uint32_t, const char *, uint32_t, const char *, const char *)
#define krun_init_log F(krun_init_log, int, uint32_t, uint32_t, uint32_t)
#define KRUN_FS_ROOT_TAG "/dev/root"
#define krun_start_enter F(krun_start_enter, uint32_t)
#define krun_get_max_vcpus F(krun_get_max_vcpus, void)
#define krun_get_default_init F(krun_get_default_init, const uint8_t **, size_t *)
#define krun_set_port_map F(krun_set_port_map, uint32_t, const char *const *)
#define LOAD(argc, argv)                                   \
    do {                                                   \
        library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);  \
        if (!library) {                                    \
            write(1, dlerror(), strlen(dlerror()));        \
            return 1;                                      \
        }                                                  \
        argc--;                                            \
        argv++;                                            \
    } while (0)
#endif
