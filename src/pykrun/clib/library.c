/*
 * What libkrun.so.1 does when it is loaded: it starts a Python of its own, with everything imported, or ends the
 * process with 125. cffi on its own would start it at the first call, from the environment, and let every function
 * return 0 if that fails, which means success.
 *
 * The paths are macros of places.h, which the build writes.
 */

#define _GNU_SOURCE
#include <Python.h>

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "library.h"
#include "places.h"

#define SET_UP_FAILED 125

static void leave(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

static void leave(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    dprintf(2, "libkrun: %s\n", text);
    _exit(SET_UP_FAILED);
}

/* ---- another Python in this process: two would share symbols, and hang or crash at some later time */

static int is_libpython(const char *name)
{
    const char *slash = strrchr(name, '/');
    return strncmp(slash ? slash + 1 : name, "libpython", strlen("libpython")) == 0;
}

static int is_same_file(const char *one, const char *other)
{
    struct stat first, second;
    return stat(one, &first) == 0 && stat(other, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

static const char *name_of(const struct link_map *object)
{
    return object->l_name[0] ? object->l_name : "this program";
}

/* The object's library of Python among those that it was linked with, NULL if there is none. */
static const char *needed_python(const struct link_map *object)
{
    const char *strings = NULL;
    const ElfW(Dyn) *entry;
    if (!object->l_ld)
        return NULL;
    for (entry = object->l_ld; entry->d_tag != DT_NULL; entry++)
        if (entry->d_tag == DT_STRTAB)
            strings = (const char *)entry->d_un.d_ptr;
    if (strings == NULL)
        return NULL;
    if ((ElfW(Addr))strings < object->l_addr) /* the dynamic linker leaves the kernel's vDSO as it is */
        strings += object->l_addr;
    for (entry = object->l_ld; entry->d_tag != DT_NULL; entry++)
        if (entry->d_tag == DT_NEEDED && is_libpython(strings + entry->d_un.d_val))
            return strings + entry->d_un.d_val;
    return NULL;
}

static const char HINT[] = "libkrun brings a Python of its own; from Python, import pykrun.krun instead";

static void refuse_other_python(void)
{
    struct link_map *object;
    void *program = dlopen(NULL, RTLD_LAZY);
    Dl_info origin;

    if (program == NULL || dlinfo(program, RTLD_DI_LINKMAP, &object) != 0)
        leave("cannot look at what this process has loaded: %s", dlerror());
    for (; object; object = object->l_next) {
        const char *python = object->l_ld == _DYNAMIC ? NULL : needed_python(object);
        if (python)
            leave("%s is linked with %s: %s", name_of(object), python, HINT);
        if (is_libpython(object->l_name) && !is_same_file(object->l_name, LIBPYTHON))
            leave("%s is loaded in this process: %s", object->l_name, HINT);
    }
    dlclose(program);
    if (!dladdr((void *)Py_InitializeFromConfig, &origin) || !is_same_file(origin.dli_fname, LIBPYTHON))
        leave("this process has a Python of its own, in %s: %s", origin.dli_fname ? origin.dli_fname : "an unknown place",
              HINT);
    if (Py_IsInitialized())
        leave("this process is running Python already: %s", HINT);
}

/* ---- signals: what Python sets for itself is put back. Nobody else's handlers change because of this library. */

static struct sigaction saved[_NSIG];
static char is_saved[_NSIG];

void krunlib_save_signals(void)
{
    for (int number = 1; number < _NSIG; number++)
        is_saved[number] = sigaction(number, NULL, &saved[number]) == 0;
}

int krunlib_is_handled(int number)
{
    return is_saved[number] && saved[number].sa_handler != SIG_DFL;
}

void krunlib_restore_signals(void)
{
    for (int number = 1; number < _NSIG; number++)
        if (is_saved[number] && number != SIGKILL && number != SIGSTOP)
            sigaction(number, &saved[number], NULL);
}

/* ---- fork, by any thread of the program. A thread that holds Python's lock is Python itself, which does all that. */

static __thread PyGILState_STATE fork_state;
static __thread int is_forking;

static void before_fork(void)
{
    is_forking = !PyGILState_Check();
    if (is_forking) {
        fork_state = PyGILState_Ensure();
        PyOS_BeforeFork();
    }
}

static void after_fork_parent(void)
{
    if (is_forking) {
        PyOS_AfterFork_Parent();
        PyGILState_Release(fork_state);
        is_forking = 0;
    }
}

/* The one thread of the child keeps its thread state, which PyGILState_Release() might delete: there is no other any
   more, and CPython 3.11 does not survive the end of the last. */
static void after_fork_child(void)
{
    if (is_forking) {
        PyOS_AfterFork_Child();
        PyEval_SaveThread();
        is_forking = 0;
    }
}

/* ---- the start */

static void check(PyStatus status)
{
    if (PyStatus_Exception(status))
        leave("Python does not start: %s", status.err_msg ? status.err_msg : "unknown reason");
}

static void add_path(PyConfig *config, const char *path)
{
    wchar_t *wide = Py_DecodeLocale(path, NULL);
    if (wide == NULL)
        leave("the path %s cannot be decoded", path);
    check(PyWideStringList_Append(&config->module_search_paths, wide));
    PyMem_RawFree(wide);
}

static void start_python(void)
{
    static const char *const search[] = SEARCH;
    PyPreConfig before;
    PyConfig config;

    PyPreConfig_InitIsolatedConfig(&before); /* no environment, no change of the program's locale */
    before.utf8_mode = 1;
    check(Py_PreInitialize(&before));

    PyConfig_InitIsolatedConfig(&config);
    config.install_signal_handlers = 0;
    config.site_import = 0;
    config.pathconfig_warnings = 0;
    check(PyConfig_SetBytesString(&config, &config.program_name, EXECUTABLE));
    check(PyConfig_SetBytesString(&config, &config.executable, EXECUTABLE));
    check(PyConfig_SetBytesString(&config, &config.base_executable, EXECUTABLE));
    check(PyConfig_SetBytesString(&config, &config.home, PREFIX));
    check(PyConfig_SetBytesString(&config, &config.prefix, PREFIX));
    check(PyConfig_SetBytesString(&config, &config.base_prefix, PREFIX));
    check(PyConfig_SetBytesString(&config, &config.exec_prefix, EXEC_PREFIX));
    check(PyConfig_SetBytesString(&config, &config.base_exec_prefix, EXEC_PREFIX));
    config.module_search_paths_set = 1;
    for (size_t i = 0; i < sizeof search / sizeof *search; i++)
        add_path(&config, search[i]);
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
    PyEval_SaveThread();
}

__attribute__((constructor)) static void load(void)
{
    refuse_other_python();
    /* Who loads us with RTLD_LOCAL hides libpython from Python's extension modules, which are linked without it. */
    if (dlopen(LIBPYTHON, RTLD_LAZY | RTLD_NOLOAD | RTLD_GLOBAL) == NULL)
        leave("%s is not loaded: %s", LIBPYTHON, dlerror());
    krunlib_save_signals();
    start_python();
    if (krunlib_start_cffi() != 0)
        leave("pykrun does not start in this process, for the reason above; a new set-up may help: %s", SET_UP);
    krunlib_restore_signals();
    if (pthread_atfork(before_fork, after_fork_parent, after_fork_child) != 0)
        leave("no memory for a fork handler");
}
