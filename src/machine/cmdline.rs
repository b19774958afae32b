//! The kernel command line a guest gets when the user says nothing else.

use crate::arch::{KERNEL_PARAMETERS, KernelParameters};
use crate::config::{Console, VmConfig};

/// The command line: the user's own or the default, then what the user adds.
///
/// The default prints to the console (to the serial port until the virtio console is there, which
/// the kernel finds late: one that fails before can be explained all the same), restarts at once
/// after a panic (which ends the machine), mounts the first disk as the root filesystem when
/// the user named one, and has a guest with a balloon report free memory in blocks that are worth it.
/// Before it comes the address that the user gave a network interface, unless there is one in the
/// line.
pub(super) fn kernel_cmdline(config: &VmConfig) -> String {
    cmdline_with(config, &KERNEL_PARAMETERS)
}

/// The same with the words of any architecture.
fn cmdline_with(config: &VmConfig, known: &KernelParameters) -> String {
    let mut line = config.cmdline.clone().unwrap_or_else(|| default_cmdline(config, known));
    if let Some(address) = address_parameter(config) {
        line = format!("{address} {line}").trim_end().to_owned();
    }
    if let Some(append) = &config.append {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(append);
    }
    if config.cmdline.is_none() { before_separator(&line, known.last) } else { line }
}

/// The line with `words` at the end of what the kernel takes for itself: what follows `--` is for init.
fn before_separator(line: &str, words: &[&str]) -> String {
    let mut words_at = line.split_inclusive(' ').scan(0, |end, word| {
        let start = *end;
        *end += word.len();
        Some((start, word.trim_end()))
    });
    let kernel_end = words_at.find_map(|(start, word)| (word == "--").then_some(start));
    let (kernel, init) = line.split_at(kernel_end.unwrap_or(line.len()));
    let parts = [kernel.trim_end()].into_iter().chain(words.iter().copied()).chain([init]);
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn default_cmdline(config: &VmConfig, known: &KernelParameters) -> String {
    let mut words = match config.console {
        Console::Virtio => known.virtio_console.to_vec(),
        _ => known.serial_console.to_vec(),
    };
    if config.console == Console::Off {
        // Nobody reads along: print what explains a crash, and spare the exits of the rest.
        words.push("loglevel=1");
    }
    words.push("panic=-1");
    if !config.acpi {
        words.extend(known.without_acpi);
    }
    if config.balloon.as_ref().is_some_and(|balloon| balloon.free_page_reporting) {
        // Blocks of 2 MiB. A kernel without huge pages would report those of 4 MiB, and none at all
        // unless 128 MiB are free; of these it is 64 MiB.
        words.push("page_reporting.page_reporting_order=9");
    }
    if config.rootfs.is_some() {
        words.push("root=/dev/vda");
        words.push(if config.rootfs_readonly { "ro" } else { "rw" });
    }
    words.join(" ")
}

/// The parameter by which the guest's kernel sets an address (Linux, nfsroot.rst), which it does
/// for one interface alone: the first that has one.
fn address_parameter(config: &VmConfig) -> Option<String> {
    let words = [&config.cmdline, &config.append].into_iter().flatten();
    if words.flat_map(|text| text.split_whitespace()).any(|word| word.starts_with("ip=")) {
        return None;
    }
    let (index, ip, net) = config
        .nets
        .iter()
        .enumerate()
        .find_map(|(index, net)| net.ip.map(|ip| (index, ip, net)))?;
    let gateway = net.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
    Some(format!("ip={}::{gateway}:{}::eth{index}:off", ip.address(), ip.netmask()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Balloon, PartialConfig};

    const KNOWN: KernelParameters = KernelParameters {
        serial_console: &["console=ttyS0"],
        virtio_console: &["earlycon=uart8250,io,0x3f8", "console=hvc0"],
        without_acpi: &["acpi=off"],
        last: &[],
    };

    fn kernel_cmdline(config: &VmConfig) -> String {
        cmdline_with(config, &KNOWN)
    }

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
        let line = kernel_cmdline(&config(|c| c.console = Console::Virtio));
        assert_eq!(line, "earlycon=uart8250,io,0x3f8 console=hvc0 panic=-1");
    }

    #[test]
    fn reports_of_free_memory_are_asked_for_in_blocks_of_huge_pages() {
        let line = |free_page_reporting| {
            let balloon = Balloon { free_page_reporting, ..Balloon::default() };
            kernel_cmdline(&config(|c| c.balloon = Some(balloon)))
        };
        assert_eq!(line(true), "console=ttyS0 panic=-1 page_reporting.page_reporting_order=9");
        assert_eq!(line(false), "console=ttyS0 panic=-1");
    }

    #[test]
    fn last_words_follow_the_user_s_and_precede_those_of_init() {
        let known = KernelParameters { last: &["earlycon"], ..KNOWN };
        let line = |append: Option<&str>| {
            cmdline_with(&config(|c| c.append = append.map(str::to_owned)), &known)
        };
        assert_eq!(line(None), "console=ttyS0 panic=-1 earlycon");
        assert_eq!(line(Some("quiet")), "console=ttyS0 panic=-1 quiet earlycon");
        assert_eq!(line(Some("a --b -- c")), "console=ttyS0 panic=-1 a --b earlycon -- c");
        let own = config(|c| c.cmdline = Some("a".into()));
        assert_eq!(cmdline_with(&own, &known), "a");
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
    #[test]
    fn address_of_an_interface_is_handed_over_unless_the_user_hands_over_one() {
        let line = |change: fn(&mut VmConfig)| {
            kernel_cmdline(&config(|c| {
                let nets =
                    ["tap=a", "tap=b,ip=10.0.0.2/24,gateway=10.0.0.1", "tap=c,ip=10.1.0.2/8"];
                c.nets = nets.map(|net| net.parse().unwrap()).into();
                change(c);
            }))
        };
        let address = "ip=10.0.0.2::10.0.0.1:255.255.255.0::eth1:off";
        assert_eq!(line(|_| {}), format!("{address} console=ttyS0 panic=-1"));
        assert_eq!(line(|c| c.cmdline = Some("a -- b".into())), format!("{address} a -- b"));
        assert_eq!(line(|c| c.cmdline = Some(String::new())), address);
        assert_eq!(line(|c| c.cmdline = Some("a ip=dhcp".into())), "a ip=dhcp");
        let own = line(|c| c.append = Some("ip=dhcp".into()));
        assert_eq!(own, "console=ttyS0 panic=-1 ip=dhcp");
        assert!(line(|c| drop(c.nets.remove(1))).starts_with("ip=10.1.0.2:::255.0.0.0::eth1:off "));
    }
}
