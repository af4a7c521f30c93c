/* krun_init._linux: the guest's seam to Linux, one named call per thing that the built-in modules lack.
 *
 * Every call raises OSError with the kernel's errno. No static state: the module lives in a snapshot of the
 * interpreter that is taken at build time, and resumes in another process.
 *
 * The largest part is the child's side of `spawn`. It is C, not Python after posix.fork(): a fork of PID 1 would copy
 * its page tables and take a page fault for whatever either side writes, which is dear under User Mode Linux. So the
 * child shares the parent's memory (the parent is suspended meanwhile) and runs only system calls until it executes.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

/* Not in every libc's headers. */
#ifndef PR_CAP_AMBIENT
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_RAISE 2
#define PR_CAP_AMBIENT_CLEAR_ALL 4
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define CLOSE_RANGE_ON_EXEC 4u
#define CAPABILITY_VERSION_3 0x20080522
#define KERNEL_SIGSET_SIZE 8

static PyObject *
none_or_error(long result)
{
    if (result < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

/* ---- the child of spawn ------------------------------------------------------------------------------------- */

enum session { OWN_GROUP, OWN_SESSION, SAME_SESSION };

enum capability_set { BOUNDING, EFFECTIVE, INHERITABLE, PERMITTED, AMBIENT, CAPABILITY_SETS };

struct limit {
    unsigned int resource;
    uint64_t values[2]; /* soft, hard: struct rlimit64 of prlimit64(2) */
};

struct plan {
    char **candidates, **argv, **env;
    int streams[3]; /* -1: keep the parent's */
    int session, terminal;
    struct limit *limits;
    Py_ssize_t limit_count;
    gid_t *groups;
    Py_ssize_t group_count; /* -1: leave the groups alone */
    long long uid, gid;     /* -1: leave */
    int umask;              /* -1: leave */
    int has_capabilities, no_new_privs;
    PyObject *heir; /* None: none */
    uint64_t capabilities[CAPABILITY_SETS];
    /* what went wrong, written by the child */
    const char *step;
    int error;
    Py_ssize_t limit; /* the one that set_limits was at */
};

static int
enter_session(struct plan *plan)
{
    if (plan->session == SAME_SESSION)
        return 0;
    if (plan->session == OWN_SESSION) {
        if (syscall(SYS_setsid) < 0)
            return -1;
        if (plan->terminal < 0 || ioctl(plan->terminal, TIOCSCTTY, 1) == 0 || errno == ENOTTY)
            return 0; /* a console need not be a terminal */
        return -1;
    }
    if (syscall(SYS_setpgid, 0, 0) < 0)
        return -1;
    if (plan->terminal >= 0) {
        /* SIGTTOU is blocked here, so a background group may do this. Not every console is a terminal. */
        int group = (int)syscall(SYS_getpid);
        (void)ioctl(plan->terminal, TIOCSPGRP, &group);
    }
    return 0;
}

static int
place_streams(struct plan *plan)
{
    for (int target = 0; target < 3; target++)
        if (plan->streams[target] >= 0 && syscall(SYS_dup3, plan->streams[target], target, 0) < 0)
            return -1;
    /* All of init's own descriptors are close-on-exec already: this is the second lock. Old kernels lack it. */
    (void)syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_ON_EXEC);
    return 0;
}

static int
set_limits(struct plan *plan)
{
    for (Py_ssize_t i = 0; i < plan->limit_count; i++)
        if (syscall(SYS_prlimit64, 0, plan->limits[i].resource, plan->limits[i].values, NULL) < 0) {
            plan->limit = i;
            return -1;
        }
    return 0;
}

static int
narrow_bounding_set(struct plan *plan)
{
    if (!plan->has_capabilities)
        return 0;
    for (unsigned long capability = 0; capability < 64; capability++) {
        if (plan->capabilities[BOUNDING] >> capability & 1)
            continue;
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
            if (errno == EINVAL)
                break; /* past the last one that this kernel knows */
            return -1;
        }
    }
    return 0;
}

/* Raw calls: a libc would tell its other threads, in memory that the parent shares. */
static int
change_ids(struct plan *plan)
{
    if (plan->has_capabilities && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
        return -1;
    if (plan->group_count >= 0 && syscall(SYS_setgroups, plan->group_count, plan->groups) < 0)
        return -1;
    if (plan->gid >= 0 && syscall(SYS_setresgid, (gid_t)plan->gid, (gid_t)plan->gid, (gid_t)plan->gid) < 0)
        return -1;
    if (plan->uid >= 0 && syscall(SYS_setresuid, (uid_t)plan->uid, (uid_t)plan->uid, (uid_t)plan->uid) < 0)
        return -1;
    return 0;
}

static int
set_capabilities(struct plan *plan)
{
    if (!plan->has_capabilities)
        return 0;
    struct {
        uint32_t version;
        int pid;
    } header = {CAPABILITY_VERSION_3, 0};
    struct {
        uint32_t effective, permitted, inheritable;
    } data[2];
    for (int half = 0; half < 2; half++) {
        data[half].effective = (uint32_t)(plan->capabilities[EFFECTIVE] >> 32 * half);
        data[half].permitted = (uint32_t)(plan->capabilities[PERMITTED] >> 32 * half);
        data[half].inheritable = (uint32_t)(plan->capabilities[INHERITABLE] >> 32 * half);
    }
    if (syscall(SYS_capset, &header, data) < 0)
        return -1;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -1;
    for (unsigned long capability = 0; capability < 64; capability++)
        if (plan->capabilities[AMBIENT] >> capability & 1 &&
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) < 0)
            return -1;
    return 0;
}

static int
set_no_new_privs(struct plan *plan)
{
    return plan->no_new_privs ? prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) : 0;
}

static int
set_umask(struct plan *plan)
{
    if (plan->umask >= 0)
        syscall(SYS_umask, plan->umask);
    return 0;
}

static int
clear_signals(struct plan *plan)
{
    /* Ignored signals outlive exec; an ordinary interpreter (not the blob's) ignores these two. */
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
    uint64_t empty = 0;
    (void)plan;
    return (int)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &empty, NULL, KERNEL_SIGSET_SIZE);
}

/* As execvp(3): what is not there, or not ours to run, does not end the search. */
static int
execute_first(struct plan *plan)
{
    int denied = 0;
    for (char **candidate = plan->candidates; *candidate; candidate++) {
        execve(*candidate, plan->argv, plan->env);
        if (errno == EACCES)
            denied = 1;
        else if (errno != ENOENT && (errno != ENOTDIR || !plan->candidates[1]))
            return -1;
    }
    if (denied)
        errno = EACCES;
    else if (plan->candidates[1])
        errno = ENOENT;
    return -1;
}

/* Privileges go in the order that keeps the later steps possible: limits may be raised and the bounding set narrowed
 * while still privileged, groups before ids, capabilities after them, and nothing is gained any more after that. */
static const struct {
    const char *name;
    int (*run)(struct plan *);
} STEPS[] = {
    {"session", enter_session},        {"streams", place_streams},     {"umask", set_umask},
    {"rlimits", set_limits},           {"bounding capabilities", narrow_bounding_set},
    {"user", change_ids},              {"capabilities", set_capabilities},
    {"noNewPrivileges", set_no_new_privs}, {"signals", clear_signals}, {"execute", execute_first},
};

static int
run_steps(void *argument)
{
    struct plan *plan = argument;
    for (size_t i = 0; i < sizeof STEPS / sizeof *STEPS; i++)
        if (STEPS[i].run(plan) < 0) {
            plan->error = errno;
            plan->step = STEPS[i].name;
            break;
        }
    return 0;
}

static int
child_main(void *argument)
{
    run_steps(argument);
    syscall(SYS_exit, 127);
    return 0;
}

/* The child runs on its own stack, here in the frame of the suspended parent. */
static __attribute__((noinline)) pid_t
clone_child(struct plan *plan)
{
    char stack[16384] __attribute__((aligned(16)));
    return clone(child_main, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, plan);
}

/* ---- the heir of execute --------------------------------------------------------------------------------------

 * What is to go on when this process has become another program: a child that inherits the interpreter. A fork would
 * copy some thousand pages for that, 20 ms under User Mode Linux; the heir shares our memory instead, and may not run
 * before exec has left it behind. So it waits at a pipe, in system calls only: exec lets go of the memory first, then
 * closes the other end (fs/exec.c, begin_new_exec).
 */
#define HEIR_STACK (256 << 10)

struct heir {
    PyObject *function;
    int pipe[2]; /* its end of file: go on; a byte: there is nothing to inherit */
    pid_t pid;
};

static int
heir_main(void *argument)
{
    struct heir *heir = argument;
    uint64_t empty = 0;
    char byte;
    syscall(SYS_close, heir->pipe[1]);
    if (syscall(SYS_read, heir->pipe[0], &byte, 1) == 0) {
        syscall(SYS_close, heir->pipe[0]);
        syscall(SYS_rt_sigprocmask, SIG_SETMASK, &empty, NULL, KERNEL_SIGSET_SIZE);
        PyObject *result = PyObject_CallNoArgs(heir->function);
        if (!result)
            PyErr_Clear();
    }
    syscall(SYS_exit, 0);
    return 0;
}

/* No signal at its end, and so no child for wait(2): a program that waits for all its children does not know it. */
static int
clone_heir(struct heir *heir)
{
    char *stack = PyMem_RawMalloc(HEIR_STACK);
    if (!stack) {
        errno = ENOMEM;
        return -1;
    }
    heir->pid = pipe2(heir->pipe, O_CLOEXEC) < 0
                    ? -1
                    : clone(heir_main, stack + HEIR_STACK - ((uintptr_t)stack + HEIR_STACK) % 16, CLONE_VM, heir);
    if (heir->pid < 0)
        return -1;
    close(heir->pipe[0]);
    return 0;
}

static void
dismiss_heir(struct heir *heir)
{
    if (write(heir->pipe[1], "x", 1) == 1)
        waitpid(heir->pid, NULL, __WCLONE);
    close(heir->pipe[1]);
}

/* ---- its arguments ------------------------------------------------------------------------------------------ */

/* A NULL-terminated vector of the strings' bytes; the bytes belong to `keep`. */
static char **
string_vector(PyObject *strings, PyObject *keep)
{
    PyObject *items = PySequence_Fast(strings, "a sequence of strings is needed");
    if (!items)
        return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(items);
    char **vector = PyMem_New(char *, count + 1);
    if (!vector)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; vector && i < count; i++) {
        PyObject *bytes = NULL;
        if (!PyUnicode_FSConverter(PySequence_Fast_GET_ITEM(items, i), &bytes) || PyList_Append(keep, bytes) < 0) {
            Py_XDECREF(bytes);
            PyMem_Free(vector);
            vector = NULL;
            break;
        }
        vector[i] = PyBytes_AS_STRING(bytes);
        Py_DECREF(bytes);
    }
    if (vector)
        vector[count] = NULL;
    Py_DECREF(items);
    return vector;
}

static int
take_limits(PyObject *limits, struct plan *plan)
{
    PyObject *items = PySequence_Fast(limits, "rlimits is a sequence of triples");
    if (!items)
        return -1;
    int result = -1;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(items);
    plan->limits = PyMem_New(struct limit, count ? count : 1);
    if (!plan->limits) {
        PyErr_NoMemory();
        goto out;
    }
    for (plan->limit_count = 0; plan->limit_count < count; plan->limit_count++) {
        struct limit *limit = &plan->limits[plan->limit_count];
        unsigned long long soft, hard;
        PyObject *item = PySequence_Fast_GET_ITEM(items, plan->limit_count);
        if (!PyTuple_Check(item)) {
            PyErr_SetString(PyExc_TypeError, "an rlimit is a tuple of number, soft and hard limit");
            goto out;
        }
        if (!PyArg_ParseTuple(item, "IKK", &limit->resource, &soft, &hard))
            goto out;
        limit->values[0] = soft;
        limit->values[1] = hard;
    }
    result = 0;
out:
    Py_DECREF(items);
    return result;
}

static int
take_groups(PyObject *groups, struct plan *plan)
{
    plan->group_count = -1;
    if (groups == Py_None)
        return 0;
    PyObject *items = PySequence_Fast(groups, "groups is a sequence of numbers or None");
    if (!items)
        return -1;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(items);
    plan->groups = PyMem_New(gid_t, count ? count : 1);
    if (!plan->groups)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; plan->groups && i < count; i++) {
        unsigned long group = PyLong_AsUnsignedLong(PySequence_Fast_GET_ITEM(items, i));
        if (PyErr_Occurred())
            break;
        plan->groups[i] = (gid_t)group;
    }
    plan->group_count = count;
    Py_DECREF(items);
    return PyErr_Occurred() ? -1 : 0;
}

static int
take_capabilities(PyObject *sets, struct plan *plan)
{
    plan->has_capabilities = sets != Py_None;
    if (!plan->has_capabilities)
        return 0;
    unsigned long long masks[CAPABILITY_SETS];
    if (!PyTuple_Check(sets)) {
        PyErr_SetString(PyExc_TypeError, "capabilities is a tuple of five masks or None");
        return -1;
    }
    if (!PyArg_ParseTuple(sets, "KKKKK", &masks[0], &masks[1], &masks[2], &masks[3], &masks[4]))
        return -1;
    for (int i = 0; i < CAPABILITY_SETS; i++)
        plan->capabilities[i] = masks[i];
    return 0;
}

static int
take_plan(PyObject *args, PyObject *kwargs, struct plan *plan, PyObject *keep)
{
    static char *names[] = {"candidates", "argv", "env", "streams", "session", "terminal", "rlimits", "groups",
                            "uid", "gid", "umask", "capabilities", "no_new_privs", "heir", NULL};
    PyObject *candidates, *argv, *env, *limits = NULL, *groups = Py_None, *capabilities = Py_None;
    plan->streams[0] = plan->streams[1] = plan->streams[2] = plan->terminal = plan->umask = -1;
    plan->uid = plan->gid = -1;
    plan->heir = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|$(iii)iiOOLLiOpO", names, &candidates, &argv, &env,
                                     &plan->streams[0], &plan->streams[1], &plan->streams[2], &plan->session,
                                     &plan->terminal, &limits, &groups, &plan->uid, &plan->gid, &plan->umask,
                                     &capabilities, &plan->no_new_privs, &plan->heir))
        return -1;
    for (int i = 0; i < 3; i++)
        if (plan->streams[i] >= 0 && plan->streams[i] < 3) {
            PyErr_SetString(PyExc_ValueError, "the descriptors of the streams must lie above 2");
            return -1;
        }
    if (!(plan->candidates = string_vector(candidates, keep)) || !(plan->argv = string_vector(argv, keep)) ||
        !(plan->env = string_vector(env, keep)))
        return -1;
    if ((limits && take_limits(limits, plan) < 0) || take_groups(groups, plan) < 0)
        return -1;
    return take_capabilities(capabilities, plan);
}

static void
drop_plan(struct plan *plan)
{
    PyMem_Free(plan->candidates);
    PyMem_Free(plan->argv);
    PyMem_Free(plan->env);
    PyMem_Free(plan->limits);
    PyMem_Free(plan->groups);
}

/* The error's `filename` is the step, `filename2` the index of the limit that was refused. */
static PyObject *
plan_error(const struct plan *plan)
{
    PyObject *limit = NULL, *step = PyUnicode_FromString(plan->step);
    if (!step)
        return NULL;
    if (strcmp(plan->step, "rlimits") == 0 && !(limit = PyLong_FromSsize_t(plan->limit))) {
        Py_DECREF(step);
        return NULL;
    }
    errno = plan->error;
    PyErr_SetFromErrnoWithFilenameObjects(PyExc_OSError, step, limit);
    Py_DECREF(step);
    Py_XDECREF(limit);
    return NULL;
}

static void
become_plan(struct plan *plan)
{
    struct heir heir = {.function = plan->heir};
    int has_heir = plan->heir != Py_None;
    if (has_heir && clone_heir(&heir) < 0) {
        plan->error = errno;
        plan->step = "heir";
        return;
    }
    run_steps(plan);
    if (has_heir)
        dismiss_heir(&heir);
}

static PyObject *
start_plan(PyObject *args, PyObject *kwargs, int in_place)
{
    struct plan plan = {0};
    pid_t pid = -1;
    PyObject *keep = PyList_New(0);
    if (!keep)
        return NULL;
    if (take_plan(args, kwargs, &plan, keep) == 0) {
        if (in_place) {
            become_plan(&plan);
        } else if ((pid = clone_child(&plan)) < 0) {
            plan.error = errno;
            plan.step = "clone";
        } else if (plan.error) {
            while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
        }
    }
    drop_plan(&plan);
    Py_DECREF(keep);
    if (plan.error)
        return plan_error(&plan);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(pid);
}

static PyObject *
linux_spawn(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    return start_plan(args, kwargs, 0);
}

static PyObject *
linux_execute(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    return start_plan(args, kwargs, 1);
}

/* ---- single calls ------------------------------------------------------------------------------------------- */

static PyObject *
linux_mount(PyObject *module, PyObject *args)
{
    const char *source, *target, *type, *data = NULL;
    unsigned long flags = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "zsz|kz", &source, &target, &type, &flags, &data))
        return NULL;
    return none_or_error(mount(source, target, type, flags, data));
}

static PyObject *
linux_umount(PyObject *module, PyObject *args)
{
    const char *target;
    int flags = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "s|i", &target, &flags))
        return NULL;
    return none_or_error(umount2(target, flags));
}

static PyObject *
linux_swapoff(PyObject *module, PyObject *args)
{
    const char *path;
    (void)module;
    if (!PyArg_ParseTuple(args, "s", &path))
        return NULL;
    return none_or_error(syscall(SYS_swapoff, path));
}

static PyObject *
linux_reboot(PyObject *module, PyObject *args)
{
    int command;
    (void)module;
    if (!PyArg_ParseTuple(args, "i", &command))
        return NULL;
    return none_or_error(reboot(command));
}

/* To `wanted`, or as far as we may. */
static PyObject *
linux_allow_descriptors(PyObject *module, PyObject *args)
{
    unsigned long long wanted;
    (void)module;
    if (!PyArg_ParseTuple(args, "K", &wanted))
        return NULL;
    uint64_t before[2];
    if (syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, before) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    uint64_t more[2] = {wanted, wanted > before[1] ? wanted : before[1]}, most[2] = {before[1], before[1]};
    if (before[0] < wanted && syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, more, NULL) < 0)
        (void)syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, most, NULL);
    return Py_BuildValue("KK", (unsigned long long)before[0], (unsigned long long)before[1]);
}

static PyObject *
linux_sethostname(PyObject *module, PyObject *args)
{
    PyObject *name;
    (void)module;
    if (!PyArg_ParseTuple(args, "O&", PyUnicode_FSConverter, &name))
        return NULL;
    int result = sethostname(PyBytes_AS_STRING(name), (size_t)PyBytes_GET_SIZE(name));
    Py_DECREF(name);
    return none_or_error(result);
}

static PyObject *
linux_finit_module(PyObject *module, PyObject *args)
{
    int descriptor;
    (void)module;
    if (!PyArg_ParseTuple(args, "i", &descriptor))
        return NULL;
    return none_or_error(syscall(SYS_finit_module, descriptor, "", 0));
}

static PyObject *
linux_filesystem_type(PyObject *module, PyObject *args)
{
    int descriptor;
    struct statfs status;
    (void)module;
    if (!PyArg_ParseTuple(args, "i", &descriptor))
        return NULL;
    if (fstatfs(descriptor, &status) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromUnsignedLong((unsigned long)status.f_type & 0xffffffffUL);
}

static PyObject *
linux_signalfd(PyObject *module, PyObject *args)
{
    unsigned long long reported;
    const int flags = 02000000 | 04000; /* SFD_CLOEXEC | SFD_NONBLOCK */
    (void)module;
    if (!PyArg_ParseTuple(args, "K", &reported))
        return NULL;
    uint64_t all = ~(uint64_t)0, mask = reported;
    if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, KERNEL_SIGSET_SIZE) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    long descriptor = syscall(SYS_signalfd4, -1, &mask, KERNEL_SIGSET_SIZE, flags);
    if (descriptor < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(descriptor);
}

static PyObject *
linux_unblock_signals(PyObject *module, PyObject *nothing)
{
    uint64_t empty = 0;
    (void)module;
    (void)nothing;
    return none_or_error(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &empty, NULL, KERNEL_SIGSET_SIZE));
}

static PyObject *
linux_attach_filter(PyObject *module, PyObject *args)
{
    int descriptor;
    Py_buffer code;
    (void)module;
    if (!PyArg_ParseTuple(args, "iy*", &descriptor, &code))
        return NULL;
    struct sock_fprog program = {(unsigned short)((size_t)code.len / sizeof(struct sock_filter)), code.buf};
    int result = setsockopt(descriptor, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
    PyBuffer_Release(&code);
    return none_or_error(result);
}

/* The child's steps by name, in order. */
static int
add_steps(PyObject *module)
{
    PyObject *names = PyTuple_New(sizeof STEPS / sizeof *STEPS);
    for (size_t i = 0; names && i < sizeof STEPS / sizeof *STEPS; i++) {
        PyObject *name = PyUnicode_FromString(STEPS[i].name);
        if (!name)
            Py_CLEAR(names);
        else
            PyTuple_SET_ITEM(names, (Py_ssize_t)i, name);
    }
    if (!names)
        return -1;
    int result = PyModule_AddObjectRef(module, "STEPS", names);
    Py_DECREF(names);
    return result;
}

#define WITH_KEYWORDS(function) (PyCFunction)(void (*)(void))(function), METH_VARARGS | METH_KEYWORDS

static PyMethodDef METHODS[] = {
    {"spawn", WITH_KEYWORDS(linux_spawn), "Start a program in a child; return its pid. See _linux.pyi."},
    {"execute", WITH_KEYWORDS(linux_execute), "Become a program; returns only by raising. See _linux.pyi."},
    {"mount", linux_mount, METH_VARARGS, "mount(2)"},
    {"umount", linux_umount, METH_VARARGS, "umount2(2)"},
    {"swapoff", linux_swapoff, METH_VARARGS, "swapoff(2)"},
    {"reboot", linux_reboot, METH_VARARGS, "reboot(2)"},
    {"allow_descriptors", linux_allow_descriptors, METH_VARARGS, "Raise RLIMIT_NOFILE; returns it as it was."},
    {"sethostname", linux_sethostname, METH_VARARGS, "sethostname(2)"},
    {"finit_module", linux_finit_module, METH_VARARGS, "finit_module(2), without parameters"},
    {"filesystem_type", linux_filesystem_type, METH_VARARGS, "f_type of fstatfs(2)"},
    {"signalfd", linux_signalfd, METH_VARARGS, "Block every signal; signalfd(2) for the bits of the mask."},
    {"unblock_signals", linux_unblock_signals, METH_NOARGS, "Block no signal any more."},
    {"attach_filter", linux_attach_filter, METH_VARARGS, "SO_ATTACH_FILTER of socket(7)"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {
    {Py_mod_exec, add_steps},
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, .m_name = "krun_init._linux", .m_doc = "The guest's seam to Linux.", .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC
PyInit__linux(void)
{
    return PyModuleDef_Init(&MODULE);
}
