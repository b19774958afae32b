//! What to tell the user beside an error, and how to exit: by the kind of the error.

use rustix::io::Errno;

use super::Exit;
use crate::arch::KernelError;
use crate::config::{ConfigError, FileError};
use crate::control::ControlError;
use crate::kvm::VmError;
use crate::machine::MachineError;
use crate::preflight::PreflightError;

/// The hint of the first error in the chain that has one.
pub(super) fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let config = cause.downcast_ref().and_then(ConfigError::hint);
        let preflight = || cause.downcast_ref().and_then(PreflightError::hint);
        let control = || cause.downcast_ref().and_then(control_hint);
        let file = || cause.downcast_ref().and_then(FileError::hint);
        config.or_else(preflight).or_else(control).or_else(file)
    })
}

fn control_hint(error: &ControlError) -> Option<String> {
    let ControlError::Machine(error) = error else { return None };
    let hint = match error {
        MachineError::Vm(error) => vm_hint(error),
        MachineError::Memory { .. } => "use less --memory, or raise ulimit -v",
        MachineError::Kernel { source: KernelError::BeyondRam { .. }, .. }
        | MachineError::Initrd { .. } => "give the guest more with --memory",
        MachineError::Kernel { source: KernelError::NoPvhEntry, .. } => {
            "leave --boot-protocol out, or use a kernel with CONFIG_PVH=y"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn vm_hint(error: &VmError) -> &'static str {
    match error {
        VmError::Ioctl { source, .. } if source.errno() == Errno::BUSY.raw_os_error() => {
            "stop other hypervisors (VirtualBox, VMware)"
        }
        VmError::EventFd(_) => "raise the limit of open files: ulimit -n 1024",
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
    if error.chain().any(is_config) { Exit::Config } else { Exit::Host }
}

fn is_config_of_machine(error: &ControlError) -> bool {
    matches!(
        error,
        ControlError::Machine(
            MachineError::File { .. }
                | MachineError::Kernel { .. }
                | MachineError::Initrd { .. }
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
