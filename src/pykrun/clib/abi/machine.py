"""The table's first half: the log, contexts, the machine, the workload, its start, questions."""

from __future__ import annotations

from pykrun.clib.abi.kinds import (
    BOOL,
    ENVIRONMENT,
    GID,
    INT,
    TEXT,
    TEXTS,
    U8,
    U32,
    U64,
    UID,
    Constant,
    Function,
    Param,
    Section,
    function,
)

_OFF = "Off, errors, and so on: each level contains those before it."

LOG = Section(
    "The log",
    (
        Function(
            "krun_set_log_level",
            (Param("level", U32, "KRUN_LOG_LEVEL_*; a number above the last means that one"),),
            "Start the log on standard error, with that level. A second start of the log changes nothing.",
        ),
        Function(
            "krun_init_log",
            (
                Param(
                    "target_fd", INT, "where to write; the library owns it from now on. KRUN_LOG_TARGET_DEFAULT: stderr"
                ),
                Param("level", U32, "KRUN_LOG_LEVEL_*"),
                Param("style", U32, "colours: KRUN_LOG_STYLE_*"),
                Param("options", U32, "0, or KRUN_LOG_OPTION_NO_ENV"),
            ),
            "Start the log. Standard input, which is descriptor 0, cannot be its target.",
            ("-EINVAL: no such descriptor, style or option",),
        ),
    ),
    (
        Constant("KRUN_LOG_TARGET_DEFAULT", "-1", "Standard error."),
        Constant("KRUN_LOG_LEVEL_OFF", "0", _OFF),
        Constant("KRUN_LOG_LEVEL_ERROR", "1"),
        Constant("KRUN_LOG_LEVEL_WARN", "2"),
        Constant("KRUN_LOG_LEVEL_INFO", "3"),
        Constant("KRUN_LOG_LEVEL_DEBUG", "4"),
        Constant("KRUN_LOG_LEVEL_TRACE", "5"),
        Constant("KRUN_LOG_STYLE_AUTO", "0", "Colours on a terminal only."),
        Constant("KRUN_LOG_STYLE_ALWAYS", "1"),
        Constant("KRUN_LOG_STYLE_NEVER", "2"),
        Constant("KRUN_LOG_OPTION_NO_ENV", "1", "Environment variables must not change what this call says."),
    ),
)

CONTEXT = Section(
    "Contexts",
    (
        Function(
            "krun_create_ctx",
            (),
            "Make a context: the description of a VM that is to be. The functions below fill it in.",
            result="the id of the context, 0 or more",
        ),
        function("free_ctx", about="Forget a context that will not be started, with all that it holds."),
    ),
)

MACHINE = Section(
    "The machine",
    (
        function(
            "set_vm_config",
            Param("num_vcpus", U8, "how many CPUs; User Mode Linux has one, whatever this says"),
            Param("ram_mib", U32, "memory in MiB"),
            about="Say how large the VM is to be.",
            errors=("-EINVAL: no CPU, or no memory",),
        ),
        function(
            "split_irqchip",
            Param(
                "enable", BOOL, "whether the host's program, not its kernel, plays a part of the interrupt controller"
            ),
            about="Accepted; it makes no difference to what the guest sees.",
        ),
        function(
            "set_nested_virt",
            Param("enabled", BOOL, "whether the guest is to be able to run VMs itself"),
            about="Ask for nested virtualisation, which krun_check_nested_virt() may say there is not.",
        ),
        function(
            "set_smbios_oem_strings",
            Param("oem_strings", TEXTS, "the strings"),
            about="Set the OEM strings (type 11) of the guest's SMBIOS tables.",
        ),
        function(
            "setuid",
            Param("uid", UID, "a user id"),
            about="Become this user when the VM starts. What is opened by name from then on (console output, kernel, "
            "shared directories, vsock sockets) has to be reachable for it.",
        ),
        function(
            "setgid",
            Param("gid", GID, "a group id"),
            about="Become this group when the VM starts, before the user changes.",
        ),
        function(
            "set_tee_config_file",
            Param("filepath", TEXT, "a configuration of confidential computing"),
            about="Not supported.",
            errors=("-ENOTSUP: for each context",),
        ),
    ),
)

KERNEL = Section(
    "The kernel",
    (
        function(
            "set_kernel",
            Param("kernel_path", TEXT, "the kernel, a file of the host"),
            Param("kernel_format", U32, "KRUN_KERNEL_FORMAT_*"),
            Param("initramfs", TEXT, "its initramfs, a file of the host; NULL for none"),
            Param("cmdline", TEXT, "its command line, which takes the place of the library's own; NULL leaves that"),
            about="Boot this kernel. It needs what the root needs: virtio-fs, virtio-console.",
            errors=("-EINVAL: no such format, or a file is missing",),
        ),
        function(
            "set_firmware",
            Param("firmware_path", TEXT, "a firmware image, a file of the host"),
            about="Start this firmware, which finds its operating system on a disk.",
            errors=("-EINVAL: the file is missing",),
        ),
    ),
    (
        Constant("KRUN_KERNEL_FORMAT_RAW", "0", "An image that is loaded as it is."),
        Constant("KRUN_KERNEL_FORMAT_ELF", "1"),
        Constant("KRUN_KERNEL_FORMAT_PE_GZ", "2", "An EFI program with a gzip archive in it."),
        Constant("KRUN_KERNEL_FORMAT_IMAGE_BZ2", "3", "A bzImage, by how its payload is packed."),
        Constant("KRUN_KERNEL_FORMAT_IMAGE_GZ", "4"),
        Constant("KRUN_KERNEL_FORMAT_IMAGE_ZSTD", "5"),
    ),
)

WORKLOAD = Section(
    "What runs in the VM",
    (
        function(
            "set_exec",
            Param("exec_path", TEXT, "the program, a path in the guest"),
            Param("argv", TEXTS, "its arguments from the first on: its own name is not among them"),
            Param("envp", ENVIRONMENT, "its environment, K=V each; NULL: that of this process, as it is now"),
            about="Say what to run. Without this call the image's own /.krun_config.json or a shell decides.",
        ),
        function(
            "set_env",
            Param("envp", ENVIRONMENT, "K=V each; NULL: the environment of this process, as it is now"),
            about="Set the environment, as krun_set_exec() does.",
        ),
        function(
            "set_workdir",
            Param("workdir_path", TEXT, "a path in the guest"),
            about="Set the directory in which the program starts.",
        ),
        function(
            "set_rlimits",
            Param(
                "rlimits", TEXTS, "NUMBER=SOFT:HARD or NAME=SOFT:HARD each, with the numbers and names of setrlimit(2)"
            ),
            about="Set resource limits of the program.",
            errors=("-EINVAL: NULL",),
        ),
    ),
)

START = Section(
    "The start",
    (
        function(
            "get_shutdown_eventfd",
            about="Return an eventfd(2): writing to it asks the guest for an orderly stop. Call it before the start.",
            result="the descriptor",
        ),
        function(
            "start_enter",
            about="Start the VM and become it: standard input, output and error are the program's, and this process "
            "ends with the program's exit status, by _exit(2): nothing that atexit(3) knows of runs. So the call "
            "returns only when the VM cannot be started. The context is used up in either case.\n\n"
            "The process ends with 125 if the guest could not be set up, 126 if the program cannot be run, 127 if it "
            "is not there, 128 and n if signal n ended it.",
            errors=("-EINVAL: this VM cannot be; the log says why",),
            result="not at all",
        ),
    ),
)

QUESTIONS = Section(
    "Questions",
    (
        Function("krun_check_nested_virt", (), "Whether guests could run VMs themselves.", result="1 or 0"),
        Function(
            "krun_has_feature",
            (Param("feature", U64, "KRUN_FEATURE_*"),),
            "Whether this library has a feature.",
            ("-EINVAL: no such feature is known",),
            "1 or 0",
        ),
        Function("krun_get_max_vcpus", (), "How many CPUs a VM can have here.", result="that number"),
    ),
    (
        Constant("KRUN_FEATURE_NET", "0"),
        Constant("KRUN_FEATURE_BLK", "1"),
        Constant("KRUN_FEATURE_GPU", "2"),
        Constant("KRUN_FEATURE_INPUT", "4"),
        Constant("KRUN_FEATURE_TEE", "6"),
        Constant("KRUN_FEATURE_AMD_SEV", "7"),
        Constant("KRUN_FEATURE_INTEL_TDX", "8"),
        Constant("KRUN_FEATURE_AWS_NITRO", "9"),
        Constant("KRUN_FEATURE_VIRGL_RESOURCE_MAP2", "10"),
        Constant("KRUN_FEATURE_INIT_BLOB", "11"),
    ),
)

SECTIONS = (LOG, CONTEXT, MACHINE, KERNEL, WORKLOAD, START, QUESTIONS)
