//! The kernel command line a guest gets when the user says nothing else.

use crate::config::{Console, VmConfig};

/// The command line: the user's own or the default, then what the user adds.
///
/// The default prints to the serial port, restarts at once after a panic (which ends the
/// machine), and mounts the first disk as the root filesystem when the user named one.
pub(super) fn kernel_cmdline(config: &VmConfig) -> String {
    let mut line = config.cmdline.clone().unwrap_or_else(|| default_cmdline(config));
    if let Some(append) = &config.append {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(append);
    }
    line
}

fn default_cmdline(config: &VmConfig) -> String {
    let mut words = vec!["console=ttyS0"];
    if config.console == Console::Off {
        // Nobody reads along: print what explains a crash, and spare the exits of the rest.
        words.push("loglevel=1");
    }
    words.push("panic=-1");
    if !config.acpi {
        words.push("acpi=off");
    }
    if config.rootfs.is_some() {
        words.push("root=/dev/vda");
        words.push(if config.rootfs_readonly { "ro" } else { "rw" });
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PartialConfig;

    fn config(change: impl FnOnce(&mut VmConfig)) -> VmConfig {
        let partial = PartialConfig { kernel: Some("k".into()), ..PartialConfig::default() };
        let mut config = partial.resolve().unwrap();
        change(&mut config);
        config
    }

    #[test]
    fn default_names_console_and_root() {
        assert_eq!(kernel_cmdline(&config(|_| {})), "console=ttyS0 panic=-1");
        let line = kernel_cmdline(&config(|c| {
            c.rootfs = Some("r".into());
            c.rootfs_readonly = true;
            c.acpi = false;
            c.console = Console::Off;
        }));
        assert_eq!(line, "console=ttyS0 loglevel=1 panic=-1 acpi=off root=/dev/vda ro");
    }

    #[test]
    fn cmdline_replaces_and_append_adds() {
        let line = kernel_cmdline(&config(|c| {
            c.cmdline = Some("a=1".into());
            c.append = Some("b -- c".into());
        }));
        assert_eq!(line, "a=1 b -- c");
        assert_eq!(
            kernel_cmdline(&config(|c| c.append = Some("x".into()))),
            "console=ttyS0 panic=-1 x"
        );
        assert_eq!(kernel_cmdline(&config(|c| c.cmdline = Some(String::new()))), "");
    }
}
