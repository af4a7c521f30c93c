/* krun_init._freebsd: the guest's seam to FreeBSD, one named call per thing that the built-in modules lack.
 *
 * Every call raises OSError with the kernel's errno. No static state, as in the seam to Linux. The workload's child is
 * forked and prepared in Python here (freebsd_launch): there is no snapshot whose pages a fork would have to copy.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <kenv.h>
#include <stdint.h>
#include <string.h>
#include <sys/param.h>
#include <sys/mount.h>
#include <sys/procctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

/* Since FreeBSD 13.1. */
#ifndef PROC_NO_NEW_PRIVS_CTL
#define PROC_NO_NEW_PRIVS_CTL 19
#define PROC_NO_NEW_PRIVS_ENABLE 1
#endif

#define MAX_OPTIONS 16 /* of one nmount(2) */

static PyObject *
none_or_error(long result)
{
    if (result < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

/* A byte more than a value may have, and its NUL: of a longer one the caller sees that it is longer. */
static PyObject *
freebsd_kenv(PyObject *module, PyObject *args)
{
    const char *name;
    char value[KENV_MVALLEN + 2];
    (void)module;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    int size = kenv(KENV_GET, name, value, (int)sizeof value);
    if (size < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyBytes_FromStringAndSize(value, (Py_ssize_t)strnlen(value, (size_t)size));
}

/* Name and value of an option as nmount(2) wants them, each with its NUL; None is an option without a value. */
static int
take_option(PyObject *option, struct iovec pair[2])
{
    const char *name, *value;
    if (!PyTuple_Check(option)) {
        PyErr_SetString(PyExc_TypeError, "a mount option is a tuple of name and value");
        return -1;
    }
    if (!PyArg_ParseTuple(option, "sz", &name, &value))
        return -1;
    pair[0].iov_base = (char *)name;
    pair[0].iov_len = strlen(name) + 1;
    pair[1].iov_base = (char *)value;
    pair[1].iov_len = value ? strlen(value) + 1 : 0;
    return 0;
}

static PyObject *
freebsd_nmount(PyObject *module, PyObject *args)
{
    struct iovec vector[2 * MAX_OPTIONS];
    PyObject *options;
    int flags = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "O|i", &options, &flags))
        return NULL;
    PyObject *items = PySequence_Fast(options, "the options are a sequence of tuples");
    if (!items)
        return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(items);
    if (count > MAX_OPTIONS)
        PyErr_SetString(PyExc_ValueError, "too many mount options");
    for (Py_ssize_t i = 0; i < count && !PyErr_Occurred(); i++)
        take_option(PySequence_Fast_GET_ITEM(items, i), &vector[2 * i]);
    PyObject *result = PyErr_Occurred() ? NULL : none_or_error(nmount(vector, (unsigned)(2 * count), flags));
    Py_DECREF(items);
    return result;
}

static PyObject *
freebsd_unmount(PyObject *module, PyObject *args)
{
    const char *target;
    int flags = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "s|i", &target, &flags))
        return NULL;
    return none_or_error(unmount(target, flags));
}

static PyObject *
list_mounts(const struct statfs *table, int count)
{
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < count; i++) {
        const struct statfs *at = &table[i];
        PyObject *item =
            Py_BuildValue("(sNNK)", at->f_fstypename, PyUnicode_DecodeFSDefault(at->f_mntfromname),
                          PyUnicode_DecodeFSDefault(at->f_mntonname), (unsigned long long)at->f_flags);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *
freebsd_mounts(PyObject *module, PyObject *args)
{
    (void)module;
    (void)args;
    int room = getfsstat(NULL, 0, MNT_NOWAIT);
    if (room < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    struct statfs *table = PyMem_New(struct statfs, room ? room : 1);
    if (!table)
        return PyErr_NoMemory();
    int count = getfsstat(table, room * (long)sizeof *table, MNT_NOWAIT);
    PyObject *result = count < 0 ? PyErr_SetFromErrno(PyExc_OSError) : list_mounts(table, count < room ? count : room);
    PyMem_Free(table);
    return result;
}

static PyObject *
freebsd_revoke(PyObject *module, PyObject *args)
{
    const char *path;
    (void)module;
    if (!PyArg_ParseTuple(args, "s", &path))
        return NULL;
    return none_or_error(revoke(path));
}

static PyObject *
freebsd_setlogin(PyObject *module, PyObject *args)
{
    const char *name;
    (void)module;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    return none_or_error(setlogin(name));
}

static PyObject *
freebsd_sethostname(PyObject *module, PyObject *args)
{
    PyObject *name;
    (void)module;
    if (!PyArg_ParseTuple(args, "O&", PyUnicode_FSConverter, &name))
        return NULL;
    int result = sethostname(PyBytes_AS_STRING(name), (int)PyBytes_GET_SIZE(name));
    Py_DECREF(name);
    return none_or_error(result);
}

/* FreeBSD's limits are signed; whatever lies above its infinity is infinity. */
static PyObject *
freebsd_setrlimit(PyObject *module, PyObject *args)
{
    int resource;
    unsigned long long soft, hard;
    (void)module;
    if (!PyArg_ParseTuple(args, "iKK", &resource, &soft, &hard))
        return NULL;
    struct rlimit limit = {
        .rlim_cur = soft < (unsigned long long)RLIM_INFINITY ? (rlim_t)soft : RLIM_INFINITY,
        .rlim_max = hard < (unsigned long long)RLIM_INFINITY ? (rlim_t)hard : RLIM_INFINITY,
    };
    return none_or_error(setrlimit(resource, &limit));
}

static PyObject *
freebsd_no_new_privs(PyObject *module, PyObject *args)
{
    int enable = PROC_NO_NEW_PRIVS_ENABLE;
    (void)module;
    (void)args;
    return none_or_error(procctl(P_PID, getpid(), PROC_NO_NEW_PRIVS_CTL, &enable));
}

static PyMethodDef METHODS[] = {
    {"kenv", freebsd_kenv, METH_VARARGS, "kenv(2), KENV_GET"},
    {"nmount", freebsd_nmount, METH_VARARGS, "nmount(2)"},
    {"unmount", freebsd_unmount, METH_VARARGS, "unmount(2)"},
    {"mounts", freebsd_mounts, METH_NOARGS, "getfsstat(2)"},
    {"revoke", freebsd_revoke, METH_VARARGS, "revoke(2)"},
    {"setlogin", freebsd_setlogin, METH_VARARGS, "setlogin(2)"},
    {"sethostname", freebsd_sethostname, METH_VARARGS, "sethostname(3)"},
    {"setrlimit", freebsd_setrlimit, METH_VARARGS, "setrlimit(2)"},
    {"no_new_privs", freebsd_no_new_privs, METH_NOARGS, "procctl(2), PROC_NO_NEW_PRIVS_CTL"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, .m_name = "krun_init._freebsd", .m_doc = "The guest's seam to FreeBSD.", .m_methods = METHODS,
};

PyMODINIT_FUNC
PyInit__freebsd(void)
{
    return PyModuleDef_Init(&MODULE);
}
