//! What the kernel of a container has to have built in: nothing can be loaded before the agent, which
//! is the first process, makes the container's surroundings.

use std::env::consts::ARCH;
use std::path::Path;

use super::image::Image;
use super::options::{Options, Setting};
use super::{Finding, PreflightError, kernel, options, shown};
use crate::arch::CONTAINER_MACHINE;

/// What a container wants of its kernel beyond what all want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// A layer on a disk that takes what it writes.
    pub writable: bool,
    /// A network interface.
    pub network: bool,
    /// Processors.
    pub cpus: u32,
}

/// What every container takes, and what for.
const ALWAYS: [(&str, &str); 22] = [
    ("BLK_DEV_INITRD", "the agent"),
    ("VIRTIO_MMIO", "all devices"),
    ("VIRTIO_BLK", "the image"),
    ("VIRTIO_VSOCKETS", "the way to the host"),
    ("EROFS_FS", "the image"),
    ("OVERLAY_FS", "the layer above the image"),
    ("TMPFS", "/dev and --tmpfs"),
    ("DEVTMPFS", "the disks"),
    ("PROC_FS", "/proc"),
    ("SYSFS", "/sys"),
    ("UNIX98_PTYS", "terminals"),
    ("POSIX_MQUEUE", "/dev/mqueue"),
    ("UNIX", "the agent"),
    ("UTS_NS", "the fence of processes"),
    ("IPC_NS", "the fence of processes"),
    ("PID_NS", "the fence of processes"),
    ("CGROUPS", "limits"),
    ("MEMCG", "-m"),
    ("BPF_SYSCALL", "the fence of devices"),
    ("CGROUP_BPF", "the fence of devices"),
    ("SECCOMP", "the fence of sockets"),
    ("SECCOMP_FILTER", "the fence of sockets"),
];
const WRITABLE: [(&str, &str); 1] = [("EXT4_FS", "what the container writes; or add --read-only")];
const NETWORK: [(&str, &str); 2] = [
    ("INET", "the network; or add --network none"),
    ("VIRTIO_NET", "the network; or add --network none"),
];
/// What a container is the poorer without, and how.
const COMFORTS: [(&str, &str); 2] = [
    ("EROFS_FS_SECURITY", "programs lose the capabilities that their files give"),
    ("SMP", "the container uses one processor"),
];

/// Reads the configuration that the kernel carries in itself, if it does, and returns what a container
/// is the poorer for.
///
/// # Errors
/// The file is no kernel for this machine, or lacks what the container needs: all of it is named.
pub fn check_container(path: &Path, needs: Needs) -> Result<Vec<Finding>, PreflightError> {
    let image = Image::open("kernel", path)?;
    let kernel = kernel::inspect(&image, ARCH)?;
    let kernel = kernel.map_err(|finding| PreflightError::Unbootable(vec![finding]))?;
    match options::find(&image, &kernel)? {
        Some(options) => judge(path, &options, needs),
        None => Ok(vec![]),
    }
}

fn judge(path: &Path, options: &Options, needs: Needs) -> Result<Vec<Finding>, PreflightError> {
    let discovery: Vec<_> =
        CONTAINER_MACHINE.discovery.iter().map(|name| (*name, "all devices")).collect();
    let wanted = ALWAYS.iter().chain(&discovery).chain(WRITABLE.iter().filter(|_| needs.writable));
    let wanted: Vec<_> = wanted.chain(NETWORK.iter().filter(|_| needs.network)).collect();
    let comforts = COMFORTS.iter().filter(|(name, _)| *name != "SMP" || needs.cpus > 1);
    let names = wanted.iter().copied().chain(comforts.clone()).map(|(name, _)| *name);
    let missing = options.not_built_in(&names.collect::<Vec<_>>());
    let found = |name: &str| missing.iter().find(|(missing, _)| *missing == name);
    let lacking: Vec<_> = wanted
        .iter()
        .filter_map(|(name, what_for)| {
            let (_, setting) = found(name)?;
            let module = if *setting == Setting::Module { " as more than a module" } else { "" };
            Some(format!("CONFIG_{name}{module} ({what_for})"))
        })
        .collect();
    if !lacking.is_empty() {
        let what = format!("kernel {} has no {}", shown(path), lacking.join(", "));
        let fix = "containers need all of it built in: use the `container` kernel (cargo xtask kernel container)";
        return Err(PreflightError::Unbootable(vec![Finding::error(what, fix)]));
    }
    let poorer = comforts.filter(|(name, _)| found(name).is_some());
    let finding = |(name, effect): &(&str, &str)| {
        Finding::warning(
            format!("kernel has no CONFIG_{name}: {effect}"),
            "use a kernel that has it",
        )
    };
    Ok(poorer.map(finding).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Needs = Needs { writable: true, network: true, cpus: 2 };

    fn told(text: &str, needs: Needs) -> Result<Vec<String>, String> {
        let judged = judge(Path::new("/k"), &Options::from(text), needs);
        let warnings = judged.map_err(|error| error.to_string())?;
        Ok(warnings.into_iter().map(|finding| finding.what).collect())
    }

    /// The recipe of the kernel that containers get by default.
    fn recipe() -> String {
        let minimal = include_str!("../../guest-kernels/minimal.config");
        let container = include_str!("../../guest-kernels/container.config");
        // What the kernel's own rules add, and what one architecture has.
        format!("{minimal}\n{container}\nCONFIG_ACPI=y\nCONFIG_SECCOMP=y\n")
    }

    #[test]
    fn recipe_of_the_container_kernel_has_everything() {
        assert_eq!(told(&recipe(), ALL), Ok(vec![]));
    }

    #[test]
    fn everything_that_is_lacking_is_named() {
        for name in
            ["VIRTIO_VSOCKETS", "EROFS_FS", "OVERLAY_FS", "CGROUPS", "EXT4_FS", "VIRTIO_NET"]
        {
            let line = format!("CONFIG_{name}=y\n");
            for other in [String::new(), format!("CONFIG_{name}=m\n")] {
                let text = recipe().replace(&line, &other);
                let error = told(&text, ALL).expect_err(name);
                assert!(error.starts_with("kernel /k has no CONFIG_"), "{error}");
                assert!(error.contains(&format!("no CONFIG_{name} ")), "{error}");
                assert_eq!(error.contains("module"), !other.is_empty(), "{error}");
            }
        }
        let minimal = include_str!("../../guest-kernels/minimal.config");
        let error = told(minimal, ALL).expect_err("no namespaces");
        for name in ["PID_NS", "MEMCG", "POSIX_MQUEUE", "CGROUP_BPF"] {
            assert!(error.contains(&format!("CONFIG_{name} (")), "{error}");
        }
        assert!(!error.contains("EROFS_FS"), "{error}");
    }

    #[test]
    fn what_is_not_asked_for_is_not_missed() {
        let few = Needs { writable: false, network: false, cpus: 1 };
        let text = ["EXT4_FS", "VIRTIO_NET", "INET", "SMP"]
            .iter()
            .fold(recipe(), |text, name| text.replace(&format!("CONFIG_{name}=y\n"), ""));
        assert_eq!(told(&text, few), Ok(vec![]));
        let error = told(&text, ALL).expect_err("network and layer");
        assert!(error.contains("EXT4_FS") && error.contains("--network none"), "{error}");
        let text =
            recipe().replace("CONFIG_SMP=y\n", "").replace("CONFIG_EROFS_FS_SECURITY=y\n", "");
        assert_eq!(told(&text, ALL).expect("bootable").len(), 2);
    }
}
