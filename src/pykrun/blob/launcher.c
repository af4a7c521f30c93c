/* main() of the init blob: CPython's core, and nothing of its standard library, around the package krun_init.
 *
 * Two ways lead to the same call of krun_init.main.main():
 *  - snapshot: at build time `stem --snapshot FROZEN OUT` starts Python, imports every module of the package and saves
 *    itself; OUT begins in main() with all of that done. `--survey`, run before, tells what belongs side by side in it.
 *  - native (without musl) and for FreeBSD: FROZEN is part of the program (-DEMBEDDED) and Python starts at every start.
 *
 * main() returns the exit status, None is 0; an exception is told on standard error and gives 125.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <fcntl.h>
#include <frameobject.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ; /* not in FreeBSD's unistd.h */

#ifndef EMBEDDED
#include "heap.h"
#include "snapshot.h"
#include "resume.h"
#include "survey.h"
#endif

#define SETUP_FAILED 125 /* the status of everything that goes wrong before the workload runs */
#ifndef ENTRY
#define ENTRY "krun_init.main"
#define SEAM "_linux"
#endif
#define MAX_MODULES 256

/* Collections: objects of the snapshot are never looked at (gc.freeze); of younger ones, this many make a collection.
 * The way to the workload makes far fewer, an init that runs for months still frees its cycles. */
#define GC_THRESHOLD 10000

static PyObject *entry;       /* krun_init.main.main */
/* looked up before the snapshot: an import costs more than all of the start */
static PyObject *environment;  /* posix.environ */
static PyObject *system_names; /* what is in the module sys */
static PyObject *argv_key;
#ifndef EMBEDDED
static int resumed;
#endif

/* ---- what went wrong ---- */

static void say(const char *text) {
    size_t length = strlen(text);
    while (length) {
        ssize_t n = write(2, text, length);
        if (n <= 0)
            return;
        text += n;
        length -= (size_t)n;
    }
}

static void say_object(PyObject *object) {
    PyObject *text = object ? PyObject_Str(object) : NULL;
    PyObject *bytes = text ? PyUnicode_AsEncodedString(text, "utf-8", "surrogateescape") : NULL;
    say(bytes ? PyBytes_AS_STRING(bytes) : "?");
    PyErr_Clear();
    Py_XDECREF(bytes);
    Py_XDECREF(text);
}

/* Python's own report needs sys.stderr and reads source files: neither exists here. */
static void say_exception(void) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    say("krun_init: uncaught exception, innermost call last:\n");
    for (PyTracebackObject *at = (PyTracebackObject *)trace; at; at = at->tb_next) {
        PyCodeObject *code = PyFrame_GetCode(at->tb_frame);
        char line[32];
        snprintf(line, sizeof line, ":%d in ", at->tb_lineno);
        say("  ");
        say_object(code->co_filename);
        say(line);
        say_object(code->co_qualname);
        say("\n");
        Py_DECREF(code);
    }
    say(type ? ((PyTypeObject *)type)->tp_name : "?");
    say(": ");
    say_object(value);
    say("\n");
}

static void die(const char *what) {
    say("krun_init: ");
    say(what);
    say("\n");
    if (PyErr_Occurred())
        say_exception();
    _exit(SETUP_FAILED);
}

static void check(PyStatus status) {
    if (PyStatus_Exception(status))
        die(status.err_msg ? status.err_msg : "Python does not start");
}

/* ---- starting Python ---- */

#ifndef EMBEDDED
/* Also where the interpreter's own stack of frames comes from; by default it would be a mapping of its own. */
static void *arena_alloc(void *context, size_t size) { return malloc(size); }
static void arena_free(void *context, void *arena, size_t size) { free(arena); }
#endif

static void set_string(PyConfig *config, wchar_t **field, const wchar_t *value) {
    check(PyConfig_SetString(config, field, value));
}

/* The registry of codecs insists on a module `encodings`. An empty one brings the error handlers written in C
 * (surrogatepass, backslashreplace, ...); the encodings written in C (UTF-8, ASCII, Latin-1) need no registry. */
static void start_codecs(void) {
    if (!PyImport_AddModule("encodings"))
        die("encodings");
    PyObject *handler = PyCodec_LookupError("strict");
    if (!handler)
        die("codecs");
    Py_DECREF(handler);
}

/* Internal, of CPython 3.11: what the module _signal must find when it is imported, done by the part of the start that
 * is left out here. */
extern int _PySignal_Init(int install_handlers);

static void start_python(void) {
    PyPreConfig preconfig;
    PyPreConfig_InitIsolatedConfig(&preconfig);
    preconfig.utf8_mode = 1; /* bytes to str and back without loss, whatever the locale */
    preconfig.configure_locale = 0;
    preconfig.allocator = PYMEM_ALLOCATOR_MALLOC; /* one heap, dense: fewer pages than pymalloc's pools by size */
    check(Py_PreInitialize(&preconfig));
#ifndef EMBEDDED
    PyObjectArenaAllocator arenas = {NULL, arena_alloc, arena_free};
    PyObject_SetArenaAllocator(&arenas);
#endif
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config._init_main = 0; /* the core only: no path configuration, no sys.stdin, no codecs from the library */
    config.site_import = 0;
    config.parse_argv = 0;
    config.install_signal_handlers = 0; /* dispositions stay what the kernel gave us, and what children inherit */
    config.configure_c_stdio = 0;
    config.use_hash_seed = 1; /* a seed must not be random in a file that is to be reproducible */
    config.hash_seed = 0;
    config.write_bytecode = 0;
    config.optimization_level = 2;
    config.use_frozen_modules = 1;
    config.pathconfig_warnings = 0;
    config.module_search_paths_set = 1; /* and empty: there are no modules in files */
    wchar_t **const paths[] = {&config.program_name, &config.home, &config.executable, &config.base_executable,
                               &config.prefix, &config.base_prefix, &config.exec_prefix, &config.base_exec_prefix,
                               &config.stdlib_dir, &config.platlibdir};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        set_string(&config, paths[i], L"/");
    set_string(&config, &config.filesystem_encoding, L"utf-8");
    set_string(&config, &config.filesystem_errors, L"surrogateescape");
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
    if (_PySignal_Init(0) < 0)
        die("signals");
    start_codecs();
}

/* ---- the package ----
 *
 * FROZEN, as freeze.py writes it, little endian: "KRUNFRZ1", u32 number of modules; then for each u32 length of the name
 * with its NUL, u32 1 for a package, u32 length of the code, the name, the code (marshal).
 */

static struct _frozen *modules; /* ends with an entry of zeros; only while they are imported */

static const unsigned char *take(const unsigned char **at, const unsigned char *limit, size_t size) {
    if ((size_t)(limit - *at) < size)
        die("the frozen modules are cut short");
    const unsigned char *bytes = *at;
    *at += size;
    return bytes;
}

static uint32_t take_u32(const unsigned char **at, const unsigned char *limit) {
    uint32_t value;
    memcpy(&value, take(at, limit, sizeof value), sizeof value);
    return value;
}

static void list_modules(const unsigned char *at, size_t size) {
    const unsigned char *limit = at + size;
    if (memcmp(take(&at, limit, 8), "KRUNFRZ1", 8))
        die("these are no frozen modules");
    uint32_t count = take_u32(&at, limit);
    modules = count <= MAX_MODULES ? calloc(count + 1, sizeof *modules) : NULL;
    if (!modules)
        die("too many frozen modules");
    for (uint32_t i = 0; i < count; i++) {
        uint32_t name_size = take_u32(&at, limit);
        modules[i].is_package = take_u32(&at, limit) == 1;
        modules[i].size = (int)take_u32(&at, limit);
        modules[i].name = (const char *)take(&at, limit, name_size);
        if (!name_size || modules[i].name[name_size - 1])
            die("a frozen module's name does not end");
        modules[i].code = take(&at, limit, (size_t)modules[i].size);
    }
}

static PyObject *import(const char *name) {
    PyObject *module = PyImport_ImportModule(name);
    if (!module)
        die(name);
    return module;
}

/* The native seam is linked like any built-in module, and those have no dots in their names. */
static void adopt_seam(void) {
    PyObject *seam = import(SEAM);
    if (PyDict_SetItemString(PyImport_GetModuleDict(), "krun_init." SEAM, seam) < 0)
        die(SEAM);
    Py_DECREF(seam);
}

static void import_package(const unsigned char *frozen, size_t size) {
    list_modules(frozen, size);
    adopt_seam();
    PyImport_FrozenModules = modules;
    for (const struct _frozen *module = modules; module->name; module++)
        Py_DECREF(import(module->name));
    entry = PyObject_GetAttrString(import(ENTRY), "main");
    environment = PyObject_GetAttrString(import("posix"), "environ");
    system_names = PyModule_GetDict(import("sys"));
    argv_key = PyUnicode_InternFromString("argv");
    if (!entry || !environment || !argv_key)
        die(ENTRY);
    PyDict_Clear(environment); /* the builder's */
    PyImport_FrozenModules = NULL;
    free(modules);
}

/* Collect now, then never look at what is there again. */
static void settle_garbage(void) {
    PyObject *gc = import("gc");
    static const char *const calls[] = {"collect", "freeze"};
    for (int i = 0; i < 2; i++) {
        PyObject *done = PyObject_CallMethod(gc, calls[i], NULL);
        if (!done)
            die(calls[i]);
        Py_DECREF(done);
    }
    PyObject *done = PyObject_CallMethod(gc, "set_threshold", "i", GC_THRESHOLD);
    if (!done)
        die("set_threshold");
    Py_DECREF(done);
    Py_DECREF(gc);
}

/* ---- one run ---- */

/* What this process was started with, as the modules sys and posix have it anywhere: argv as str, environ as bytes. */
static void fill_argv(int argc, char **argv) {
    PyObject *list = PyList_New(argc);
    for (int i = 0; list && i < argc; i++) {
        PyObject *word = PyUnicode_DecodeUTF8(argv[i], (Py_ssize_t)strlen(argv[i]), "surrogateescape");
        if (!word)
            die("argv");
        PyList_SET_ITEM(list, i, word);
    }
    if (!list || PyDict_SetItem(system_names, argv_key, list) < 0)
        die("argv");
    Py_DECREF(list);
}

static void fill_environ(void) {
    for (char **at = environ; at && *at; at++) {
        const char *equals = strchr(*at, '=');
        if (!equals)
            continue;
        PyObject *key = PyBytes_FromStringAndSize(*at, equals - *at);
        PyObject *value = PyBytes_FromString(equals + 1);
        if (!key || !value || !PyDict_SetDefault(environment, key, value)) /* of two of one name the first, as in C */
            die("environ");
        Py_DECREF(key);
        Py_DECREF(value);
    }
}

static int run(int argc, char **argv) {
    fill_argv(argc, argv);
    fill_environ();
    PyObject *result = PyObject_CallNoArgs(entry);
    if (result == Py_None)
        return 0;
    long status = result ? PyLong_AsLong(result) : -1;
    if (PyErr_Occurred()) {
        say_exception();
        return SETUP_FAILED;
    }
    return (int)(status & 0xff);
}

/* ---- the two programs ---- */

#ifdef EMBEDDED

extern const unsigned char frozen_start[], frozen_end[]; /* frozen.S */

int main(int argc, char **argv) {
    start_python();
    import_package(frozen_start, (size_t)(frozen_end - frozen_start));
    settle_garbage();
    _exit(run(argc, argv));
}

#else

/* Only at build time, in the stem: files are mapped and unmapped, they must not end up in the heap. */
static const void *map_file(const char *path, size_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (fd < 0 || fstat(fd, &about))
        die(path);
    *size = (size_t)about.st_size;
    void *bytes = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        die(path);
    close(fd);
    return bytes;
}

static int start(char **words) {
    int count = 0;
    while (words[count])
        count++;
    return run(count, words);
}

/* Once through the start that is to be quick: what CPython caches on the way is then in the snapshot. Of this run nothing
 * else may stay. */
static void rehearse(char **words) {
    if (!*words)
        return;
    if (getpid() == 1)
        die("not built as PID 1: the package would take this machine for its own");
    environ = NULL;
    PyType_ClearCache();
    if (start(words) || PyDict_SetItem(system_names, argv_key, Py_None) < 0)
        die("the rehearsal failed");
}

static void load(const char *frozen, char **words) {
    size_t size;
    const void *bytes = map_file(frozen, &size);
    start_python();
    import_package(bytes, size);
    munmap((void *)bytes, size);
    settle_garbage();
    rehearse(words); /* last: what it caches is to stay there */
    PyThreadState_Get()->native_thread_id = 1; /* of this run; the kernel starts the resumed program as thread 1 */
    resumed = 1;
}

/* The same start, with everything as the snapshot will have it but the heap spread out: what does it touch? */
static int look(const char *frozen, const char *out, char **words) {
    heap_spread();
    load(frozen, words);
    if (survey_begin())
        return SETUP_FAILED;
    int status = start(words);
    return survey_write(out) ? SETUP_FAILED : status;
}

static int save(const char *frozen, const char *out, char **words) {
    size_t size = 0;
    const void *wanted = *words ? map_file(*words++, &size) : NULL;
    if (wanted)
        heap_want(wanted);
    load(frozen, words);
    heap_seal();
    if (wanted)
        munmap((void *)wanted, size);
    return snapshot_write(out) ? SETUP_FAILED : 0;
}

int main(int argc, char **argv) {
    if (resumed) {
        resume_prepare();
        _exit(run(argc, argv));
    }
    if (argc > 4 && !strcmp(argv[1], "--survey"))
        _exit(look(argv[2], argv[3], argv + 4));
    if (argc > 3 && !strcmp(argv[1], "--snapshot"))
        _exit(save(argv[2], argv[3], argv + 4));
    die("usage: stem --survey FROZEN WANTED WORDS..., stem --snapshot FROZEN OUT [WANTED WORDS...]");
}

/* musl keeps the address of the vDSO's clock in a variable; in a snapshot that would be the builder's. Every call goes to
 * the kernel instead. Both names: the second is the one the library itself uses. */
#include <sys/syscall.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) { return (int)syscall(SYS_clock_gettime, clock, now); }

int __clock_gettime(clockid_t clock, struct timespec *now) { return clock_gettime(clock, now); }

#endif
