"""libkrun's API in Python: the functions of its C header by their names, with their semantics (docs/krun.md).

Success is 0 or an id, failure a negative errno; nothing raises but a call with a wrong number of arguments. A
`const char *` is `str`, `bytes` or None, an array of them a sequence, a pointer to data a buffer with its length
beside it. Functions may be called from any thread.
"""

from pykrun.krun.console import (
    krun_add_console_port_inout,
    krun_add_console_port_tty,
    krun_add_serial_console_default,
    krun_add_virtio_console_default,
    krun_add_virtio_console_multiport,
    krun_disable_implicit_console,
    krun_set_console_output,
    krun_set_kernel_console,
)
from pykrun.krun.disks import (
    krun_add_disk,
    krun_add_disk2,
    krun_add_disk3,
    krun_set_data_disk,
    krun_set_mapped_volumes,
    krun_set_root,
    krun_set_root_disk,
    krun_set_root_disk_remount,
)
from pykrun.krun.filesystems import (
    krun_add_virtiofs,
    krun_add_virtiofs2,
    krun_add_virtiofs3,
    krun_disable_implicit_init,
    krun_fs_add_overlay_dir,
    krun_fs_add_overlay_file,
    krun_get_default_init,
)
from pykrun.krun.kernel import krun_set_firmware, krun_set_kernel
from pykrun.krun.lifetime import krun_create_ctx, krun_free_ctx
from pykrun.krun.log import krun_init_log, krun_set_log_level
from pykrun.krun.network import (
    krun_add_net_tap,
    krun_add_net_unixgram,
    krun_add_net_unixstream,
    krun_set_gvproxy_path,
    krun_set_net_mac,
    krun_set_passt_fd,
    krun_set_port_map,
)
from pykrun.krun.queries import krun_check_nested_virt, krun_get_max_vcpus, krun_has_feature
from pykrun.krun.start import krun_get_shutdown_eventfd, krun_start_enter
from pykrun.krun.unsupported import (
    krun_add_display,
    krun_add_input_device,
    krun_add_input_device_fd,
    krun_add_vhost_user_device,
    krun_display_set_dpi,
    krun_display_set_edid,
    krun_display_set_physical_size,
    krun_display_set_refresh_rate,
    krun_set_display_backend,
    krun_set_gpu_options,
    krun_set_gpu_options2,
    krun_set_tee_config_file,
)
from pykrun.krun.vm import (
    krun_set_nested_virt,
    krun_set_smbios_oem_strings,
    krun_set_vm_config,
    krun_setgid,
    krun_setuid,
    krun_split_irqchip,
)
from pykrun.krun.vsock import (
    krun_add_vsock,
    krun_add_vsock_port,
    krun_add_vsock_port2,
    krun_disable_implicit_vsock,
)
from pykrun.krun.workload import krun_set_env, krun_set_exec, krun_set_rlimits, krun_set_workdir

__all__ = [
    "krun_add_console_port_inout",
    "krun_add_console_port_tty",
    "krun_add_disk",
    "krun_add_disk2",
    "krun_add_disk3",
    "krun_add_display",
    "krun_add_input_device",
    "krun_add_input_device_fd",
    "krun_add_net_tap",
    "krun_add_net_unixgram",
    "krun_add_net_unixstream",
    "krun_add_serial_console_default",
    "krun_add_vhost_user_device",
    "krun_add_virtio_console_default",
    "krun_add_virtio_console_multiport",
    "krun_add_virtiofs",
    "krun_add_virtiofs2",
    "krun_add_virtiofs3",
    "krun_add_vsock",
    "krun_add_vsock_port",
    "krun_add_vsock_port2",
    "krun_check_nested_virt",
    "krun_create_ctx",
    "krun_disable_implicit_console",
    "krun_disable_implicit_init",
    "krun_disable_implicit_vsock",
    "krun_display_set_dpi",
    "krun_display_set_edid",
    "krun_display_set_physical_size",
    "krun_display_set_refresh_rate",
    "krun_free_ctx",
    "krun_fs_add_overlay_dir",
    "krun_fs_add_overlay_file",
    "krun_get_default_init",
    "krun_get_max_vcpus",
    "krun_get_shutdown_eventfd",
    "krun_has_feature",
    "krun_init_log",
    "krun_set_console_output",
    "krun_set_data_disk",
    "krun_set_display_backend",
    "krun_set_env",
    "krun_set_exec",
    "krun_set_firmware",
    "krun_set_gpu_options",
    "krun_set_gpu_options2",
    "krun_set_gvproxy_path",
    "krun_set_kernel",
    "krun_set_kernel_console",
    "krun_set_log_level",
    "krun_set_mapped_volumes",
    "krun_set_nested_virt",
    "krun_set_net_mac",
    "krun_set_passt_fd",
    "krun_set_port_map",
    "krun_set_rlimits",
    "krun_set_root",
    "krun_set_root_disk",
    "krun_set_root_disk_remount",
    "krun_set_smbios_oem_strings",
    "krun_set_tee_config_file",
    "krun_set_vm_config",
    "krun_set_workdir",
    "krun_setgid",
    "krun_setuid",
    "krun_split_irqchip",
    "krun_start_enter",
]
