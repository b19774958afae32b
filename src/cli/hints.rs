//! What to tell the user beside an error, and how to exit: by the kind of the error.

use rustix::io::Errno;

use super::Exit;
use crate::arch::{CpuError, InitrdError, KernelError};
use crate::config::{ConfigError, FileError};
use crate::control::ControlError;
use crate::devices::virtio::block::DiskError;
use crate::devices::virtio::vsock::VsockError;
use crate::kvm::VmError;
use crate::listener::ListenError;
use crate::machine::MachineError;
use crate::preflight::PreflightError;
use vmm_image::client::ClientError;
use vmm_image::store::StoreError;

/// The hint of the first error in the chain that has one.
pub(super) fn hint(error: &anyhow::Error) -> Option<String> {
    if error.chain().any(is_out_of_descriptors) {
        return Some("raise the limit of open files: ulimit -n 1024".to_owned());
    }
    error.chain().find_map(|cause| {
        let config = cause.downcast_ref().and_then(ConfigError::hint);
        let preflight = || cause.downcast_ref().and_then(PreflightError::hint);
        let control = || cause.downcast_ref().and_then(control_hint);
        let file = || cause.downcast_ref().and_then(FileError::hint);
        config.or_else(preflight).or_else(control).or_else(file).or_else(|| image_hint(cause))
    })
}

fn image_hint(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    let store = cause.downcast_ref().and_then(StoreError::hint);
    let client = cause.downcast_ref().and_then(ClientError::hint);
    store.or(client).map(str::to_owned)
}

fn control_hint(error: &ControlError) -> Option<String> {
    let ControlError::Machine(error) = error else { return None };
    let hint = match error {
        MachineError::Vm(error) => vm_hint(error),
        MachineError::Memory { .. } => "use less --memory, or raise ulimit -v",
        MachineError::AddressSpace { .. } => "use less --memory",
        MachineError::Cpu(CpuError::Feature(_)) => "leave it out of --cpu-features",
        MachineError::Kernel { source: KernelError::BeyondRam { .. }, .. }
        | MachineError::Initrd { source: InitrdError::TooLarge { .. }, .. } => {
            "give the guest more with --memory"
        }
        MachineError::Kernel { source: KernelError::NoPvhEntry, .. } => {
            "leave --boot-protocol out, or use a kernel with CONFIG_PVH=y"
        }
        MachineError::Disk { source: DiskError::Overlay { .. }, .. } => {
            "give an overlay of this base, or a new name in a directory that exists"
        }
        MachineError::Port { source, .. }
        | MachineError::Vsock { source: VsockError::Listen(source) } => socket_hint(source),
        _ => return None,
    };
    Some(hint.to_owned())
}

fn socket_hint(error: &ListenError) -> &'static str {
    match error {
        ListenError::Exists { .. } => "give another path for the socket, or remove what is there",
        ListenError::InUse(_) => "give each machine its own path for the socket",
        ListenError::Setup { .. } => "give a path in a directory that exists and is this user's",
    }
}

fn vm_hint(error: &VmError) -> &'static str {
    match error {
        VmError::Ioctl { source, .. } if source.errno() == Errno::BUSY.raw_os_error() => {
            "stop other hypervisors (VirtualBox, VMware)"
        }
        _ => "vmm doctor says what is missing and how to get it",
    }
}

/// What is wrong with what the user gave is told apart from what is wrong with the host.
pub(super) fn status(error: &anyhow::Error) -> Exit {
    let is_config = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<ConfigError>()
            || cause.is::<PreflightError>()
            || cause.is::<FileError>()
            || cause.downcast_ref().is_some_and(is_config_of_machine)
    };
    let exhausted = error.chain().any(is_out_of_descriptors);
    if error.chain().any(is_config) && !exhausted { Exit::Config } else { Exit::Host }
}

/// Whether `cause` is the system's word for too many open files, in this process or in all.
fn is_out_of_descriptors(cause: &(dyn std::error::Error + 'static)) -> bool {
    let io = cause.downcast_ref().and_then(std::io::Error::raw_os_error);
    let kvm = || cause.downcast_ref().map(|e: &kvm_ioctls::Error| e.errno());
    let other = || cause.downcast_ref().map(|errno: &Errno| errno.raw_os_error());
    let number = io.or_else(kvm).or_else(other);
    number.is_some_and(|n| [Errno::MFILE, Errno::NFILE].contains(&Errno::from_raw_os_error(n)))
}

fn is_config_of_machine(error: &ControlError) -> bool {
    if let ControlError::Machine(MachineError::Disk {
        source: DiskError::Overlay { source, .. },
        ..
    }) = error
    {
        // Its contents, not the host, are in the way.
        return source.raw_os_error().is_none();
    }
    matches!(
        error,
        ControlError::Machine(
            MachineError::File { .. }
                | MachineError::Kernel { .. }
                | MachineError::Initrd { .. }
                | MachineError::Disk {
                    source: DiskError::Kind { .. }
                        | DiskError::Empty { .. }
                        | DiskError::NoDirect { .. },
                    ..
                }
                | MachineError::Port {
                    source: ListenError::Exists { .. } | ListenError::Setup { .. },
                    ..
                }
                | MachineError::Vsock {
                    source: VsockError::Listen(
                        ListenError::Exists { .. } | ListenError::Setup { .. }
                    ),
                }
                | MachineError::BootData(_)
                | MachineError::TooManyDevices(_)
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel_error(source: KernelError) -> anyhow::Error {
        let path = "vmlinux".to_owned();
        ControlError::from(MachineError::Kernel { path, source }).into()
    }

    #[test]
    fn config_errors_exit_apart_from_host_errors() {
        let nested = anyhow::Error::from(ConfigError::NoKernel).context("boot");
        assert_eq!(status(&nested), Exit::Config);
        assert!(hint(&nested).is_some());
        assert_eq!(status(&anyhow::anyhow!("no device")), Exit::Host);
        let api = ControlError::from(MachineError::from(VmError::ApiVersion(11)));
        assert_eq!(status(&api.into()), Exit::Host);
        assert_eq!(status(&kernel_error(KernelError::NoPvhEntry)), Exit::Config);
    }

    #[test]
    fn too_many_open_files_is_an_error_of_the_host_whoever_met_it() {
        let errno = Errno::MFILE;
        let file = FileError::Open { path: "k".into(), source: errno.into() };
        for error in [
            anyhow::Error::from(file),
            anyhow::Error::from(errno).context("disk"),
            anyhow::Error::from(kvm_ioctls::Error::new(errno.raw_os_error())),
        ] {
            assert_eq!(status(&error), Exit::Host, "{error:#}");
            assert!(hint(&error).is_some_and(|hint| hint.contains("ulimit")), "{error:#}");
        }
        let missing = FileError::Open { path: "k".into(), source: Errno::NOENT.into() };
        assert_eq!(status(&missing.into()), Exit::Config);
    }

    #[test]
    fn missing_kvm_leads_to_the_doctor() {
        let missing = VmError::Open(kvm_ioctls::Error::new(Errno::NOENT.raw_os_error()));
        let error = anyhow::Error::from(ControlError::from(MachineError::from(missing)));
        assert!(hint(&error).is_some_and(|hint| hint.contains("vmm doctor")));
        assert!(format!("{error:#}").starts_with("open /dev/kvm: No such file"));
    }

    #[test]
    fn kernel_larger_than_memory_is_told_to_get_more() {
        let error = kernel_error(KernelError::BeyondRam { end: 2, ram_end: 1 });
        assert!(hint(&error).is_some_and(|hint| hint.contains("--memory")));
    }
}
