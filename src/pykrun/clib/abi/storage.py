"""The table's part on file systems, disks and the root."""

from __future__ import annotations

from pykrun.clib.abi.kinds import (
    BOOL,
    BYTES,
    DATA_OUT,
    SIZE,
    SIZE_OUT,
    TEXT,
    TEXTS,
    U32,
    U64,
    Constant,
    Function,
    Param,
    Section,
    function,
)

_ID = Param("block_id", TEXT, "a name for the disk")
_IMAGE = Param("disk_path", TEXT, "the image, a file or block device of the host")
_FORMAT = Param("disk_format", U32, "KRUN_DISK_FORMAT_*; it is never guessed, since a guest could choose it then")
_READ_ONLY = Param("read_only", BOOL, "whether the guest may only read")
_TAG = Param("c_tag", TEXT, "the name by which the guest mounts it")
_FOLDER = Param("c_path", TEXT, "the directory of the host; NULL: an empty file system, for overlay files")
_SHM = Param("shm_size", U64, "the size of a DAX window in bytes; accepted, there is none")
_FS_TAG = Param("fs_tag", TEXT, "the file system's tag; the root's is KRUN_FS_ROOT_TAG")
_OVERLAY_ERRORS = (
    "-EINVAL: NULL, or an empty component in the path",
    "-EEXIST: the path was given before",
    "-ENOENT: no such file system, or no such parent among the overlay's directories",
    "-ENOTDIR: the parent is a file",
)

ROOT = Section(
    "The root file system",
    (
        function(
            "set_root",
            Param("root_path", TEXT, "a directory of the host"),
            about="Make this directory the guest's root, as krun_add_virtiofs3() with KRUN_FS_ROOT_TAG does.",
            errors=("-EINVAL: it is no directory",),
        ),
        function(
            "set_root_disk_remount",
            Param("device", TEXT, "the disk or partition, as the guest names it: /dev/vda1"),
            Param("fstype", TEXT, 'the type of its file system; "auto" or NULL: whatever is found'),
            Param("options", TEXT, "mount options, separated by commas; NULL for none"),
            about="Boot into a disk: init starts in an empty root and makes the disk the root then.",
            errors=("-EINVAL: there is a root file system already, or no disk yet",),
        ),
        function(
            "set_mapped_volumes",
            Param("mapped_volumes", TEXTS, "HOST:GUEST each"),
            about="Not supported any more: use krun_add_virtiofs().",
            errors=("-EINVAL: always",),
        ),
        function(
            "disable_implicit_init",
            about="Leave the library's /init.krun out of the root. To be called before the root is set.",
        ),
        Function(
            "krun_get_default_init",
            (
                Param("data_out", DATA_OUT, "where to store the address of its bytes"),
                Param("len_out", SIZE_OUT, "where to store how many these are"),
            ),
            "Return the init that would be /init.krun. The bytes stay where they are as long as the process lives.",
            ("-EINVAL: NULL",),
        ),
    ),
    (Constant("KRUN_FS_ROOT_TAG", '"/dev/root"', "The tag of the file system that is the root."),),
)

FILE_SYSTEMS = Section(
    "Shared directories",
    (
        function("add_virtiofs", _TAG, _FOLDER, about="Add a virtio-fs device."),
        function("add_virtiofs2", _TAG, _FOLDER, _SHM, about="Add a virtio-fs device."),
        function(
            "add_virtiofs3",
            _TAG,
            _FOLDER,
            _SHM,
            Param("read_only", BOOL, "whether the guest may only read"),
            about="Add a virtio-fs device.",
        ),
        function(
            "fs_add_overlay_file",
            _FS_TAG,
            Param("path", TEXT, 'where it is: "init.krun", or "etc/hostname" with "etc" made before'),
            Param("data", BYTES, "its content. It is not copied: it must stay where it is as long as the VM lives"),
            Param("data_len", SIZE, "how many bytes that is; if 0, data may be NULL"),
            Param("mode", U32, "mode bits: 0100644"),
            Param("one_shot", BOOL, "whether it is gone once somebody looked it up"),
            about="Put a file that is on no disk into a shared directory.",
            errors=_OVERLAY_ERRORS,
        ),
        function(
            "fs_add_overlay_dir",
            _FS_TAG,
            Param("path", TEXT, "where it is"),
            Param("mode", U32, "mode bits: 040755"),
            about="Put an empty read-only directory that is on no disk into a shared directory.",
            errors=_OVERLAY_ERRORS,
        ),
    ),
)

DISKS = Section(
    "Disks",
    (
        function("add_disk", _ID, _IMAGE, _READ_ONLY, about="Add a disk with a raw image: /dev/vda, vdb, and so on."),
        function(
            "add_disk2",
            _ID,
            _IMAGE,
            _FORMAT,
            _READ_ONLY,
            about="Add a disk. Images in other formats than raw can name further files, which the guest gets to see "
            "then: their origin must be trusted.",
            errors=("-EINVAL: no such format",),
        ),
        function(
            "add_disk3",
            _ID,
            _IMAGE,
            _FORMAT,
            _READ_ONLY,
            Param("direct_io", BOOL, "whether to go round the host's page cache"),
            Param("sync_mode", U32, "KRUN_SYNC_*"),
            about="Add a disk, as krun_add_disk2() does.",
            errors=("-EINVAL: no such format or mode",),
        ),
        function(
            "set_root_disk",
            _IMAGE,
            about="Add a raw disk that comes first. Deprecated; it has no effect beside krun_add_disk().",
        ),
        function(
            "set_data_disk",
            _IMAGE,
            about="Add a raw disk that comes second. Deprecated; it has no effect beside krun_add_disk().",
        ),
    ),
    (
        Constant("KRUN_DISK_FORMAT_RAW", "0"),
        Constant("KRUN_DISK_FORMAT_QCOW2", "1"),
        Constant("KRUN_DISK_FORMAT_VMDK", "2"),
        Constant("KRUN_SYNC_NONE", "0", "The guest's flushes are ignored: a crash of the host loses data."),
        Constant("KRUN_SYNC_RELAXED", "1", "Flushes reach the host's disk. (On Linux this is KRUN_SYNC_FULL.)"),
        Constant("KRUN_SYNC_FULL", "2", "Flushes reach the host's disk."),
    ),
)

SECTIONS = (ROOT, FILE_SYSTEMS, DISKS)
