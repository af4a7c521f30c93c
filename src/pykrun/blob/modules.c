/* What of CPython is linked: these built-in modules, and none of its frozen library. Linked ahead of libpython's
 * archive, so that its own tables, and all that only they refer to, stay behind.
 *
 * MODULES comes from recipe.py: X(posix) X(time) ... SYSTEM_CORE: the archive is the distribution's, with its own tables.
 */
#include <Python.h>
#include <stdbool.h>

#define X(name) extern PyObject *PyInit_##name(void);
MODULES
#undef X
extern PyObject *PyInit__imp(void);
extern PyObject *PyInit_gc(void);
extern PyObject *_PyWarnings_Init(void);

struct _inittab _PyImport_Inittab[] = {
#define X(name) {#name, PyInit_##name},
    MODULES
#undef X
    {"_imp", PyInit__imp},
    {"gc", PyInit_gc},
    {"_warnings", _PyWarnings_Init},
    {"builtins", NULL},
    {"sys", NULL},
    {NULL, NULL},
};

#ifndef SYSTEM_CORE
/* The import system itself is the one frozen module the core cannot do without; its bytes come from CPython's build. */
#include "frozen_modules/importlib._bootstrap.h"

struct _module_alias {
    const char *name, *orig;
};

static const struct _frozen bootstrap[] = {
    {"_frozen_importlib", _Py_M__importlib__bootstrap, sizeof _Py_M__importlib__bootstrap, false, NULL},
    {NULL, NULL, 0, false, NULL},
};
static const struct _frozen none[] = {{NULL, NULL, 0, false, NULL}};
static const struct _module_alias aliases[] = {{"_frozen_importlib", "importlib._bootstrap"}, {NULL, NULL}};

const struct _frozen *PyImport_FrozenModules;
const struct _frozen *_PyImport_FrozenBootstrap = bootstrap;
const struct _frozen *_PyImport_FrozenStdlib = none;
const struct _frozen *_PyImport_FrozenTest = none;
const struct _module_alias *_PyImport_FrozenAliases = aliases;

int _Py_Deepfreeze_Init(void) { return 0; }
void _Py_Deepfreeze_Fini(void) {}
#endif
